"""The step clock of a program on a device: what happens there is told by the same phases."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch

from stepscope.profiler.device.clock import DeviceClock
from stepscope.profiler.device.memory import AllocatorWatch, peak_now
from stepscope.profiler.format import Copies, Device
from stepscope.profiler.recorder import Recorder


class DeviceRecorder(Recorder):
    """A recorder that also follows the device, once the program has begun to use one.

    Args:
        warmup_steps: leading steps to keep apart from the steady state.
        problem: told what could not be followed, and why.
    """

    def __init__(self, warmup_steps: int, problem: Callable[[str], None]) -> None:
        self._problem = problem
        self._clock: DeviceClock | None = None
        self._memory: AllocatorWatch | None = None
        self._no_memory = self._memory_stopped = False
        self._names: list[str] = []
        self._peak_before = 0
        with suppress(Exception):  # an allocator without statistics is told of later
            self._peak_before = peak_now()
        super().__init__(warmup_steps)
        self.on_step += [self._read_clock, self._look_at_memory]
        self.on_restart.append(self._begin_anew)

    def phase(self, name: str) -> int:
        """The number of phase `name`, made on first use."""
        number = super().phase(name)
        if number == len(self._names):
            self._names.append(name)
        return number

    def enter(self, phase: int) -> int:
        """Switch to `phase`; returns the phase to hand to `leave`."""
        before = self.current
        previous = super().enter(phase)
        if self.current != before:
            self._switched(self._names[phase])
        return previous

    def leave(self, previous: int) -> None:
        """Switch back to what `enter` returned."""
        before = self.current
        super().leave(previous)
        if self.current != before:
            self._switched(self._names[previous])

    def _switched(self, phase: str) -> None:
        if self._clock is not None:
            self._clock.switch(self.last_ns, phase)
        if self._memory is not None and self._memory.in_phase:
            self._guarded_memory(lambda watch: watch.switch(phase))

    def end_step(self) -> None:
        """Close the running step and begin the next one."""
        clock, steady = self._clock, self.step_index >= self.warmup_steps
        if clock is not None:
            if self.aside:
                clock.drop_step()
            clock.end_step(self.step_index if steady else None)
        super().end_step()
        if self.aside:
            return
        if clock is None and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            with suppress(Exception):  # a driver that fails here is asked again after the next step
                clock = self._clock = DeviceClock(torch.cuda.current_device(), self._problem)
        if clock is not None:
            if self.step_index == self.warmup_steps:
                clock.begin_anew()
            clock.begin_step(self._names[self.current])

    def restart_step(self) -> None:
        """Forget what has run since the last step: it belongs to no step."""
        if self._clock is not None:
            self._clock.drop_step()
        super().restart_step()

    def _begin_anew(self) -> None:
        for watch in (self._clock, self._memory):
            if watch is not None:
                watch.begin_anew()

    def _read_clock(self) -> bool:
        if self._clock is not None:
            self._clock.read()
        return False

    def _look_at_memory(self) -> bool:
        used_time = False

        def look(watch: AllocatorWatch) -> None:
            nonlocal used_time
            used_time = watch.end_step(self.step_index, self._names[self.current])

        if self._memory is None and not self._no_memory and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            try:
                self._memory = AllocatorWatch(
                    torch.cuda.current_device(), self.started_ns, self._peak_before
                )
            except Exception as error:
                self._give_up_memory(error)
        if self._memory is not None and not self._memory_stopped:
            self._guarded_memory(look)
        return used_time

    def stop_watching_memory(self) -> None:
        """What the allocator says from now on is of a trial too."""
        self._memory_stopped = True

    def _guarded_memory(self, action: Callable[[AllocatorWatch], None]) -> None:
        """An allocator without statistics (another one may be plugged in) ends the looking."""
        try:
            if self._memory is not None:
                action(self._memory)
        except Exception as error:
            self._give_up_memory(error)

    def _give_up_memory(self, error: Exception) -> None:
        self._memory, self._no_memory = None, True
        self._problem(f"the device's memory was not followed: {error!r}")

    def device(self, copies: list[Copies]) -> Device | None:
        """What is known of the device; safe from any thread.

        Args:
            copies: between the host and the device, as probes have seen them.
        """
        clock, memory = self._clock, self._memory
        times = clock.result() if clock is not None else None
        held = memory.result() if memory is not None else None
        if times is None and held is None and not copies:
            return None
        return Device(times=times, memory=held, copies=copies)

    def close(self) -> None:
        """Stop recording: from now on probes that are still referenced pass through."""
        if self.active and self._clock is not None:
            self._clock.read()
        super().close()

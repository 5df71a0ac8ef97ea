"""Knowledge as data: detection rules and the catalogue of methods, one file each."""

package pgserver

// HasLocale says whether this machine has a locale of the C library, whatever
// the spelling of its codeset.
func HasLocale(name string) bool { return hasLocale(name) }

package server

// MayRestore is an error if Restore would refuse the data directory for what is
// in it. It changes nothing.
func MayRestore(dataDir string) error { return inspectRestoreDir(dataDir) }

package server

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// MayRestore is an error if Restore would refuse the data directory for what is
// in it, the tokens, or the bump, whatever the database is. It changes nothing.
func MayRestore(cfg Config, bump int64) error {
	if err := cfg.settleRestored(); err != nil {
		return err
	}
	if err := inspectRestoreDir(cfg.DataDir); err != nil {
		return err
	}
	if bump < 0 {
		return errors.New("--bump-revision must not be negative: whoever has seen later revisions would mistake new ones for them")
	}
	return cfg.readTokens(slog.New(slog.DiscardHandler))
}

// MayMake is an error if this process could not write a data directory at path, or
// make it there.
func MayMake(path string) error {
	at, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	for {
		err := unix.Access(at, unix.W_OK|unix.X_OK)
		if above := filepath.Dir(at); errors.Is(err, unix.ENOENT) && above != at {
			at = above // the folder may not be there yet
			continue
		}
		if err != nil {
			return fmt.Errorf("the data directory %s cannot be written: %w", path, &os.PathError{Op: "write to", Path: at, Err: err})
		}
		return nil
	}
}

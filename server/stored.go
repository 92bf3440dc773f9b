package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"limpet/trust"
)

// StoredToken is the token in use in a data directory.
func StoredToken(dir string) (trust.Token, error) {
	file := filepath.Join(dir, "token")
	data, err := os.ReadFile(file)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return trust.Token{}, fmt.Errorf("there is no token in %s: give the data directory of a member that has one with --data-dir", dir)
	case err != nil:
		return trust.Token{}, fmt.Errorf("the token in %s cannot be read (%w); ask as the user that limpet runs as, or as root", file, unwrapPath(err))
	}
	first, _, _ := strings.Cut(string(data), "\n")
	return trust.ParseToken(first)
}

package e2e

import (
	"os"
	"strconv"
	"testing"

	"limpet/e2e/proc"
)

// subject is the server that the tests judge: limpet, or etcd to judge the tests.
func subject() proc.Kind {
	if os.Getenv("E2E_SUBJECT") == string(proc.Etcd) {
		return proc.Etcd
	}
	return proc.Limpet
}

// needsLimpet skips what only limpet has to do.
func needsLimpet(t *testing.T) {
	t.Helper()
	if subject() != proc.Limpet {
		t.Skip("limpet's own behaviour; E2E_SUBJECT names another program")
	}
}

// number reads a count from the environment.
func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s=%q is not a number", name, text)
	}
	return n
}

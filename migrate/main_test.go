package migrate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"limpet/sqlstore"
	"limpet/txn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// imported imports what open opens, and opens the database that came of it.
func imported(t *testing.T, src Source, err error) (*Summary, *sqlstore.Store, *txn.State) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "limpet.db")
	sum, err := Import(context.Background(), src, path, nil)
	if err := errors.Join(err, src.Close()); err != nil {
		t.Fatalf("Import: %v", err)
	}
	store, err := sqlstore.Open(sqlstore.Config{Path: path})
	if err != nil {
		t.Fatalf("open what was imported: %v", err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	state, err := txn.Load(store)
	if err != nil {
		t.Fatal(err)
	}
	return sum, store, state
}

// history is what a source or a database tells, one row a line.
func history(t *testing.T, rows func(func(*sqlstore.Row) error) error) []string {
	t.Helper()
	var out []string
	err := rows(func(r *sqlstore.Row) error {
		text := fmt.Sprintf("%d.%d %s", r.ID.Rev(), r.ID.Sub(), r.Key)
		if r.Tombstone() {
			text += " gone"
		} else {
			text += fmt.Sprintf("=%s create %d version %d lease %d", r.Value, r.Create, r.Version, r.Lease)
		}
		out = append(out, text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func wantLines(t *testing.T, what string, got []string, want string) {
	t.Helper()
	if got, want := strings.Join(got, "\n"), strings.TrimSpace(want); got != want {
		t.Errorf("%s:\n%s\nwant:\n%s", what, got, want)
	}
}

// wantRefused makes sure that a file is refused by open for a reason, and that
// nothing has come of it.
func wantRefused(t *testing.T, name string, src Source, err error, is error, text string) {
	t.Helper()
	if err == nil {
		path := filepath.Join(t.TempDir(), "limpet.db")
		_, err = Import(context.Background(), src, path, nil)
		err = errors.Join(err, src.Close())
		if left, _ := filepath.Glob(path + "*"); len(left) > 0 {
			t.Errorf("%s: an import that failed left %v", name, left)
		}
	}
	if !errors.Is(err, is) || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: got %v, want %v with %q", name, err, is, text)
	}
	if err != nil && len(err.Error()) > 1000 {
		t.Errorf("%s: the error has %d bytes", name, len(err.Error()))
	}
}

func copyTo(t *testing.T, from string, n int64) string {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if n < 0 {
		n += int64(len(data))
	}
	to := filepath.Join(t.TempDir(), filepath.Base(from))
	if err := os.WriteFile(to, data[:n], 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

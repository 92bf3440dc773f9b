package migrate

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"limpet/sqlstore"
	"limpet/txn"
)

// kineSchema is that of kine 0.17 (pkg/drivers/sqlite/sqlite.go).
const kineSchema = `
CREATE TABLE kine (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, created INTEGER, deleted INTEGER,
	create_revision INTEGER, prev_revision INTEGER, lease INTEGER, value BLOB, old_value BLOB);
CREATE INDEX kine_name_index ON kine (name);
CREATE UNIQUE INDEX kine_name_prev_revision_uindex ON kine (name, prev_revision);
INSERT INTO kine(name, created, deleted, create_revision, prev_revision, lease, value) VALUES ('compact_rev_key', 1, 0, NULL, 0, 0, '');
`

// kineDB makes a database as kine leaves it, by the statements.
func kineDB(t *testing.T, statements ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state.db")
	db := openSQL(t, path)
	for _, s := range append([]string{"PRAGMA journal_mode = WAL", kineSchema}, statements...) {
		if _, err := db.Exec(s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func openSQL(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	return db
}

// row is one insert into table kine.
func row(id int, name string, created, deleted, create, prev, lease int, value string) string {
	return fmt.Sprintf("INSERT INTO kine(id, name, created, deleted, create_revision, prev_revision, lease, value) VALUES (%d, '%s', %d, %d, %d, %d, %d, CAST('%s' AS BLOB))",
		id, name, created, deleted, create, prev, lease, value)
}

func TestKineHistory(t *testing.T) {
	path := kineDB(t,
		row(2, "/registry/health", 1, 0, 0, 0, 0, `{"health":"true"}`),
		row(3, "/a", 1, 0, 0, 0, 0, "a1"),
		row(4, "/a", 0, 0, 3, 3, 0, "a2"),
		row(5, "gap-5", 0, 1, 0, 0, 0, ""),
		row(6, "/a", 0, 1, 3, 4, 0, "a2"),
		row(7, "/event", 1, 0, 0, 0, 3600, "e"),
		row(8, "/a", 1, 0, 0, 6, 0, "a3"),
		row(9, "/a", 0, 0, 8, 8, 15, "a4"),
		row(10, "/empty", 1, 0, 0, 0, 0, ""),
		row(11, "gap-year", 1, 0, 0, 0, 0, "somebody"),
		"UPDATE kine SET value = NULL WHERE id = 10")
	src, err := OpenKine(path)
	sum, store, state := imported(t, src, err)
	want := `
2.0 /registry/health={"health":"true"} create 2 version 1 lease 0
3.0 /a=a1 create 3 version 1 lease 0
4.0 /a=a2 create 3 version 2 lease 0
6.0 /a gone
7.0 /event=e create 7 version 1 lease 3600
8.0 /a=a3 create 8 version 1 lease 0
9.0 /a=a4 create 8 version 2 lease 15
10.0 /empty= create 10 version 1 lease 0
11.0 gap-year=somebody create 11 version 1 lease 0`
	wantLines(t, "rows", history(t, rowsOf(path)), want)
	if store.Rev() != 11 || store.Floor() != -1 || sum.Keys != 5 || sum.Rows != 9 || sum.Revision != 11 || sum.Compacted != -1 || sum.Leases != 2 {
		t.Errorf("store at %d, floor %d; summary %+v", store.Rev(), store.Floor(), sum)
	}
	if got, want := fmt.Sprint(state.Leases()), fmt.Sprint([]txn.Lease{{ID: 15, TTL: 15}, {ID: 3600, TTL: 3600}}); got != want {
		t.Errorf("leases %v, want %v", got, want)
	}
	if got := store.LeaseKeys(15); fmt.Sprint(got) != "[/a]" {
		t.Errorf("keys of lease 15: %v", got)
	}
}

// TestKineHoles: after a compaction rows speak of others that are gone, and so
// they do where somebody has taken rows away.
func TestKineHoles(t *testing.T) {
	path := kineDB(t,
		row(20, "/a", 0, 0, 5, 12, 0, "a"),    // earlier ones were compacted
		row(21, "/b", 0, 1, 5, 13, 0, "gone"), // a deletion of what was compacted
		row(30, "/a", 0, 0, 5, 20, 0, "aa"),
		row(31, "/a", 0, 0, 25, 29, 0, "created again by a row that is gone"),
		row(32, "/c", 0, 0, 0, 14, 0, "knows no creation"),
		row(33, "/d", 0, 0, 0, 0, 0, "knows nothing"),
		row(34, "/e", 1, 0, 0, 0, 0, "last"),
		"DELETE FROM kine WHERE id = 34", // its number was given out
		"UPDATE kine SET prev_revision = 20 WHERE name = 'compact_rev_key'")
	src, err := OpenKine(path)
	sum, store, _ := imported(t, src, err)
	wantLines(t, "rows", history(t, rowsOf(path)), `
20.0 /a=a create 5 version 2 lease 0
21.0 /b gone
30.0 /a=aa create 5 version 3 lease 0
31.0 /a=created again by a row that is gone create 25 version 2 lease 0
32.0 /c=knows no creation create 14 version 2 lease 0
33.0 /d=knows nothing create 33 version 2 lease 0`)
	if store.Rev() != 34 || store.Floor() != 20 || sum.Compacted != 20 || sum.Keys != 3 {
		t.Errorf("store at revision %d, floor %d, want 34, 20; summary %+v", store.Rev(), store.Floor(), sum)
	}
	if _, err := store.At(19); !errors.Is(err, sqlstore.ErrCompacted) {
		t.Errorf("read at 19: %v, want it compacted", err)
	}
	v, err := store.At(20)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := v.Get("/a"); err != nil || r == nil || string(r.Value) != "a" {
		t.Errorf("/a at the floor: %+v, %v", r, err)
	}
}

// rowsOf reads a source as Import does.
func rowsOf(path string) func(func(*sqlstore.Row) error) error {
	return func(fn func(*sqlstore.Row) error) error {
		src, err := OpenKine(path)
		if err != nil {
			return err
		}
		return errors.Join(src.Rows(context.Background(), fn), src.Close())
	}
}

// TestKineManyLeases: no lease has more keys than may go at once, and those
// that only rows of the past had are not made.
func TestKineManyLeases(t *testing.T) {
	const n = leaseKeys + 100
	var all []string
	for i := range n {
		all = append(all, row(i+2, fmt.Sprintf("/events/%d", i), 1, 0, 0, 0, 60, "e"))
	}
	all = append(all, row(n+2, "/once", 1, 0, 0, 0, 7, "x"), row(n+3, "/once", 0, 0, n+2, n+2, 0, "stays"))
	src, err := OpenKine(kineDB(t, "BEGIN; "+strings.Join(all, ";")+"; COMMIT"))
	_, store, state := imported(t, src, err)
	keys := 0
	for _, l := range state.Leases() {
		if l.TTL != 60 {
			t.Errorf("lease %+v, want only those of 60 s", l)
		}
		keys += len(store.LeaseKeys(l.ID))
		if len(store.LeaseKeys(l.ID)) > leaseKeys {
			t.Errorf("lease %d has %d keys", l.ID, len(store.LeaseKeys(l.ID)))
		}
	}
	if keys != n || len(state.Leases()) != 2 {
		t.Errorf("%d leases with %d keys, want 2 with %d", len(state.Leases()), keys, n)
	}
}

// TestKineWAL: what lies in the WAL of a kine that was killed counts.
func TestKineWAL(t *testing.T) {
	path := kineDB(t)
	db := openSQL(t, path)
	if _, err := db.Exec(row(2, "/a", 1, 0, 0, 0, 0, "in the WAL")); err != nil {
		t.Fatal(err)
	}
	killed := filepath.Join(t.TempDir(), "state.db")
	for _, suffix := range []string{"", "-wal"} {
		data, err := os.ReadFile(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(killed+suffix, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	src, err := OpenKine(killed)
	sum, _, _ := imported(t, src, err)
	if sum.Keys != 1 {
		t.Errorf("summary %+v, want the key in the WAL", sum)
	}
}

// TestKineInUse: a database that another process has open is refused. The lock
// that tells belongs to a process, so that there has to be another one: this
// test binary again.
func TestKineInUse(t *testing.T) {
	if path := os.Getenv("LIMPET_TEST_HOLD"); path != "" {
		db := openSQL(t, path)
		defer func() { _ = db.Close() }()
		if _, err := db.Exec("SELECT count(*) FROM kine"); err != nil {
			t.Fatal(err)
		}
		fmt.Println("holding")
		_, _ = os.Stdin.Read(make([]byte, 1)) // until the parent lets go
		return
	}
	path := kineDB(t, row(2, "/a", 1, 0, 0, 0, 0, "1"))
	holder := exec.Command(os.Args[0], "-test.run=^TestKineInUse$")
	holder.Env = append(os.Environ(), "LIMPET_TEST_HOLD="+path)
	in, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, len("holding"))); err != nil {
		t.Fatal(err)
	}
	_, err = OpenKine(path)
	wantRefused(t, "held", nil, err, ErrInUse, fmt.Sprintf("process %d", holder.Process.Pid))
	if err := errors.Join(in.Close(), holder.Wait()); err != nil {
		t.Fatal(err)
	}
	src, err := OpenKine(path)
	if err != nil {
		t.Fatalf("when nobody holds it any more: %v", err)
	}
	// Somebody writes while it is read.
	db := openSQL(t, path)
	if _, err := db.Exec(row(3, "/b", 1, 0, 0, 0, 0, "1")); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, "written to meanwhile", src, nil, ErrInUse, "written to meanwhile")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestKineRefuses(t *testing.T) {
	for _, c := range []struct {
		name, sql string
		is        error
		text      string
	}{
		{"no table", "DROP TABLE kine", ErrForeign, "has no table kine"},
		{"another table", "DROP TABLE kine; CREATE TABLE kine (id INTEGER PRIMARY KEY, name TEXT)", ErrForeign, "is not kine's"},
		{"limpet's", fmt.Sprintf("PRAGMA application_id = %d", sqlstore.ApplicationID), ErrForeign, "limpet snapshot restore"},
		{"compacted in the future", "UPDATE kine SET prev_revision = 99 WHERE name = 'compact_rev_key'", ErrDamaged, "compacted at revision 99"},
		{"created in the future", row(2, "/a", 0, 0, 3, 1, 0, "x"), ErrDamaged, "create_revision 3"},
		{"negative lease", row(2, "/a", 1, 0, 0, 0, -5, "x"), ErrDamaged, "lease -5"},
		{"no name", row(2, "", 1, 0, 0, 0, 0, "x"), ErrDamaged, "has no name"},
		{"NULL name", row(2, "/a", 1, 0, 0, 0, 0, "x") + "; UPDATE kine SET name = NULL WHERE id = 2", ErrDamaged, "has no name"},
		{"text for a number", row(2, "/a", 1, 0, 0, 0, 0, "x") + "; UPDATE kine SET lease = 'soon' WHERE id = 2", ErrDamaged, "wrong type"},
		{"an id before the first", row(-4, "/a", 1, 0, 0, 0, 0, "x"), ErrDamaged, "row -4"},
		{"an id beyond all", row(1<<42, "/a", 1, 0, 0, 0, 0, "x"), ErrDamaged, "which no kine reaches"},
		{"a counter beyond all", "UPDATE sqlite_sequence SET seq = 1 << 45", ErrDamaged, "which no kine reaches"},
	} {
		src, err := OpenKine(kineDB(t, c.sql))
		wantRefused(t, c.name, src, err, c.is, c.text)
	}
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	src, err := OpenKine(text)
	wantRefused(t, "a text", src, err, ErrForeign, "no SQLite database")
	_, err = OpenKine(filepath.Join(t.TempDir(), "nothing"))
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nothing there: got %v", err)
	}
}

// TestKineDamaged: truncated files and torn pages are refused, or hold no more
// than other values.
func TestKineDamaged(t *testing.T) {
	var all []string
	for i := range 300 {
		all = append(all, row(i+2, fmt.Sprintf("/k/%d", i), 1, 0, 0, 0, 0, strings.Repeat("v", 300)))
	}
	path := kineDB(t, "BEGIN; "+strings.Join(all, ";")+"; COMMIT")
	for _, n := range []int64{100, 4096, 8192, 50_000, -1, -4096} {
		src, err := OpenKine(copyTo(t, path, n))
		if err == nil {
			_, err = Look(context.Background(), src, nil)
			err = errors.Join(err, src.Close())
		}
		if err == nil {
			t.Errorf("cut at %d: got no error", n)
		}
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for page := 0; page*4096 < len(whole); page += 3 {
		torn := append([]byte{}, whole...)
		for i := range 200 {
			torn[page*4096+i] ^= 0x5a
		}
		file := filepath.Join(t.TempDir(), "torn.db")
		if err := os.WriteFile(file, torn, 0o600); err != nil {
			t.Fatal(err)
		}
		src, err := OpenKine(file)
		if err != nil {
			refused++
			continue
		}
		_ = src.Close()
	}
	if refused < 5 {
		t.Errorf("only %d databases with a torn page were refused", refused)
	}
}

package cli

import (
	"database/sql"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	_ "modernc.org/sqlite" // the driver, whose name is sqlite
)

func TestImportAndExportRefuse(t *testing.T) {
	cleanEnv(t)
	text := writeFile(t, "text", strings.Repeat("no database ", 100))
	dir := filepath.Join(t.TempDir(), "limpet")
	for _, c := range []struct {
		want string
		args []string
	}{
		{"name the file", []string{"import", "kine", "--data-dir", dir}},
		{"--data-dir is missing", []string{"import", "kine", text}},
		{"no SQLite database", []string{"import", "kine", text, "--data-dir", dir}},
		{"no such file", []string{"import", "kine", "--data-dir", dir, text + ".not"}},
		{"there is no flag --nonsense", []string{"import", "kine", text, "--nonsense"}},
		{"--name wants a value", []string{"import", "kine", text, "--name"}},
		{"name a snapshot, or give --endpoints", []string{"import", "etcd", "--data-dir", dir}},
		{"not both", []string{"import", "etcd", "--data-dir", dir, "--endpoints", "http://127.0.0.1:1", text}},
		{"does not begin as a file of etcd's", []string{"import", "etcd", text, "--data-dir=" + dir}},
		{"holds no certificate", []string{"import", "etcd", "--data-dir", dir, "--endpoints", "https://127.0.0.1:1", "--cacert", text}},
		{"must not be negative", []string{"import", "etcd", text, "--data-dir", dir, "--bump-revision=-1"}},
		{"token is not hexadecimal", []string{"import", "etcd", text, "--data-dir", dir, "--token", "none"}},
		{"say where to", []string{"export"}},
		{"say where to", []string{"export", "--to", "http://127.0.0.1:1", "--out", "-"}},
		{"--to-cert and --to-key belong together", []string{"export", "--endpoints", "http://127.0.0.1:1", "--timeout", "10ms", "--to", "x", "--to-cert", "y"}},
	} {
		_, err := limpet(c.args...)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("limpet %s: got %v, want an error with %q", strings.Join(c.args, " "), err, c.want)
		}
	}
	left, err := filepath.Glob(dir + "*")
	if err != nil || len(left) > 0 {
		t.Errorf("imports that were refused left %v, %v", left, err)
	}
}

// TestImportIntoAMember: a data directory that is somebody's stays as it is, and
// the source is not even looked at.
func TestImportIntoAMember(t *testing.T) {
	cleanEnv(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := limpet("import", "kine", "--data-dir", dir, filepath.Join(dir, "no source"))
	if err == nil || strings.Contains(err.Error(), "no source") {
		t.Errorf("got %v, want the data directory refused", err)
	}
}

// cutShort leaves a folder as an import does that was killed.
func cutShort(t *testing.T, dataDir string) {
	t.Helper()
	w, err := openWorkplace(dataDir, "", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{w.database() + ".building", w.snapshot()} {
		if err := os.WriteFile(file, []byte("cut short"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.lock.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestWorkplace: one import at a time, and what one that was cut short has left
// goes.
func TestWorkplace(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "limpet")
	cutShort(t, dir)
	w, err := openWorkplace(dir, "", "")
	if err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(w.path); len(left) != 1 || left[0].Name() != workMark {
		t.Errorf("left over: %v", left)
	}
	if err := w.hasRoom(1); err != nil {
		t.Error(err)
	}
	if err := w.hasRoom(math.MaxInt64); err == nil || !strings.Contains(err.Error(), "--temp-dir") {
		t.Errorf("room for all there can be: got %v, want it refused", err)
	}
	if _, err := openWorkplace(dir, "", ""); err == nil || !strings.Contains(err.Error(), "another limpet import") {
		t.Errorf("a second one: got %v, want it refused", err)
	}
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(w.path); !os.IsNotExist(err) {
		t.Errorf("the folder is there after the end: %v", err)
	}
	// One that was killed between the folder and its mark.
	if err := os.Mkdir(dir+".import", 0o700); err != nil {
		t.Fatal(err)
	}
	if w, err = openWorkplace(dir, "", ""); err != nil {
		t.Fatal(err)
	}
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
}

// TestWorkplaceIsNobodyElses: what an import did not make it does not remove,
// whatever it is called.
func TestWorkplaceIsNobodyElses(t *testing.T) {
	cleanEnv(t)
	write := func(file string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		make func(dir string) (file, source string) // dir is the data directory
		want string
	}{
		{"a folder of somebody's", func(dir string) (string, string) {
			write(dir + ".import/limpet.db")
			return dir + ".import/limpet.db", dir + ".not"
		}, "did not make that folder"},
		{"the source in it", func(dir string) (string, string) {
			write(dir + ".import/snapshot.db")
			return dir + ".import/snapshot.db", dir + ".import/snapshot.db"
		}, "move it elsewhere"},
		{"what an import has left as a source", func(dir string) (string, string) {
			cutShort(t, dir)
			return dir + ".import/snapshot.db", dir + ".import/snapshot.db"
		}, "move it elsewhere"},
		{"by another name", func(dir string) (string, string) {
			cutShort(t, dir)
			if err := os.Symlink(dir+".import/snapshot.db", dir+".link"); err != nil {
				t.Fatal(err)
			}
			return dir + ".import/snapshot.db", dir + ".link"
		}, "move it elsewhere"},
		{"somebody's file beside", func(dir string) (string, string) {
			cutShort(t, dir)
			write(dir + ".import/limpet.db.mine")
			return dir + ".import/limpet.db.mine", dir + ".not"
		}, "limpet.db.mine"},
		{"a folder elsewhere", func(dir string) (string, string) {
			elsewhere := t.TempDir()
			write(elsewhere + "/" + workMark)
			write(elsewhere + "/snapshot.db")
			if err := os.Symlink(elsewhere, dir+".import"); err != nil {
				t.Fatal(err)
			}
			return elsewhere + "/snapshot.db", dir + ".not"
		}, "cannot be created"},
	} {
		dir := filepath.Join(t.TempDir(), "limpet")
		file, source := c.make(dir)
		if _, err := limpet("import", "etcd", "--data-dir", dir, source); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), dir+".import") {
			t.Errorf("%s: got %v, want an error with %q that names the folder", c.name, err, c.want)
		}
		if _, err := os.Stat(file); err != nil {
			t.Errorf("%s: the file is gone: %v", c.name, err)
		}
	}
}

// kineFile is a datastore of k3s's with one key.
func kineFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "state.db")
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	for _, s := range []string{
		`CREATE TABLE kine (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, created INTEGER, deleted INTEGER,
			create_revision INTEGER, prev_revision INTEGER, lease INTEGER, value BLOB, old_value BLOB)`,
		`INSERT INTO kine(name, created, deleted, create_revision, prev_revision, lease, value) VALUES ('/a', 1, 0, 0, 0, 0, x'31')`,
	} {
		if _, err := db.Exec(s); err != nil {
			t.Fatal(err)
		}
	}
	return file
}

// TestImportWorksElsewhere: --temp-dir is where an import works, and --dry-run
// touches nothing beside the data directory.
func TestImportWorksElsewhere(t *testing.T) {
	cleanEnv(t)
	file := kineFile(t)
	dir, temp := filepath.Join(t.TempDir(), "limpet"), t.TempDir()
	if err := os.WriteFile(dir+".import", nil, 0o600); err != nil { // where an import would work
		t.Fatal(err)
	}
	if _, err := limpet("import", "kine", file, "--data-dir", dir); err == nil || !strings.Contains(err.Error(), dir+".import") {
		t.Errorf("beside: got %v, want it refused", err)
	}
	if out := succeed(t, "import", "kine", file, "--data-dir", dir, "--dry-run"); !strings.Contains(out, "nothing was written") {
		t.Errorf("--dry-run printed %q", out)
	}
	if out := succeed(t, "import", "kine", file, "--data-dir", dir, "--temp-dir", temp); !strings.Contains(out, "1 keys") {
		t.Errorf("--temp-dir printed %q", out)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

// TestImportWithoutRights: who may not write beside the data directory is told
// what to do, and may still look.
func TestImportWithoutRights(t *testing.T) {
	cleanEnv(t)
	if os.Geteuid() == 0 {
		t.Skip("root may write everywhere")
	}
	above, file := t.TempDir(), kineFile(t)
	dir := filepath.Join(above, "limpet")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(above, 0o500); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(above, 0o700) })
	if _, err := limpet("import", "kine", file, "--data-dir", dir); err == nil || !strings.Contains(err.Error(), "--temp-dir") || !strings.Contains(err.Error(), "as root") {
		t.Errorf("beside: got %v, want --temp-dir and root named", err)
	}
	if _, err := limpet("import", "kine", file, "--data-dir", dir+"2", "--temp-dir", t.TempDir()); err == nil || !strings.Contains(err.Error(), "cannot be written") {
		t.Errorf("a data directory that cannot be made: got %v", err)
	}
	succeed(t, "import", "kine", file, "--data-dir", dir+"2", "--dry-run")
	succeed(t, "import", "kine", file, "--data-dir", dir, "--temp-dir", t.TempDir())
}

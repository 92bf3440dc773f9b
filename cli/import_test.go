package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
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

// TestWorkplace: one import at a time, and what one that was cut short has left
// goes.
func TestWorkplace(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "limpet")
	if err := os.MkdirAll(dir+".import", 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"limpet.db.building", "snapshot.db"} {
		if err := os.WriteFile(filepath.Join(dir+".import", name), []byte("cut short"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w, err := openWorkplace(dir)
	if err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(w.path); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
	if _, err := openWorkplace(dir); err == nil || !strings.Contains(err.Error(), "another limpet import") {
		t.Errorf("a second one: got %v, want it refused", err)
	}
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(w.path); !os.IsNotExist(err) {
		t.Errorf("the folder is there after the end: %v", err)
	}
}

package server

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const goodIdentity = `{"format": 1, "member_id": "8e9e05c52164694d", "cluster_id": "cdf818194e3a8c32", "created": "2026-01-02T03:04:05Z"}`

// files is what a folder holds: names to contents, a name that ends in / is a
// folder.
type files map[string]string

func folder(t *testing.T, f files) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range f {
		file := filepath.Join(dir, name)
		var err error
		if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(file, 0o700)
		} else {
			err = os.WriteFile(file, []byte(content), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// contents lists what lies below dir, with mode and content.
func contents(t *testing.T, dir string) files {
	t.Helper()
	out := files{}
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := ""
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			text = string(data)
		}
		name, err := filepath.Rel(dir, file)
		out[name] = fmt.Sprintf("%v %s", info.Mode(), text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func wantUntouched(t *testing.T, dir string, before files) {
	t.Helper()
	if after := contents(t, dir); !maps.Equal(after, before) {
		t.Errorf("the folder was touched:\n got %v\nwant %v", after, before)
	}
}

// A folder that is not limpet's is refused in one sentence, and nothing in it
// changes, neither by a look nor by an attempt to open it.
func TestDataDirRefuses(t *testing.T) {
	for _, c := range []struct {
		name  string
		holds files
		want  string // with DIR for the folder
	}{
		{
			"another program's", files{"photo.jpg": "x"},
			`the data directory DIR belongs to another program (it holds "photo.jpg" and no limpet.json); give an empty one with --data-dir`,
		},
		{
			"another program's folder", files{"db/": ""},
			`the data directory DIR belongs to another program (it holds "db" and no limpet.json); give an empty one with --data-dir`,
		},
		{
			"etcd's", files{"member/": "", "member/snap/": ""},
			`the data directory DIR belongs to etcd (it holds "member"); give an empty one with --data-dir`,
		},
		{
			"the database without the identity", files{databaseName: "x", lockName: ""},
			`the data directory DIR belongs to another program (it holds "limpet.db" and no limpet.json); give an empty one with --data-dir`,
		},
		{
			"another program's beside our leftovers", files{identityName + ".tmp": "{", lockName: "", "x": ""},
			`the data directory DIR belongs to another program (it holds "x" and no limpet.json); give an empty one with --data-dir`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := folder(t, c.holds)
			before := contents(t, dir)
			want := strings.ReplaceAll(c.want, "DIR", dir)
			wantSentence(t, "inspectDataDir", inspectDataDir(dir), want)
			_, err := openDataDir(dir)
			wantSentence(t, "openDataDir", err, want)
			wantUntouched(t, dir, before)
		})
	}
}

func TestDataDirThatIsAFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("the data directory %s is a file; give a folder with --data-dir", file)
	wantSentence(t, "inspectDataDir", inspectDataDir(file), want)
	_, err := openDataDir(file)
	wantSentence(t, "openDataDir", err, want)
	if got, err := os.ReadFile(file); err != nil || string(got) != "x" {
		t.Errorf("the file afterwards: got %q, %v, want it untouched", got, err)
	}
	// A file on the way to it is no better.
	below := filepath.Join(file, "below")
	wantSentence(t, "inspectDataDir below a file", inspectDataDir(below), fmt.Sprintf("the data directory %s cannot be read: not a directory", below))
}

// The identity decides whose folder it is; damage there is said and nothing is
// repaired by guessing.
func TestDataDirWithADamagedIdentity(t *testing.T) {
	const restore = "; restore it from another copy of the data directory"
	for _, c := range []struct {
		name, identity, want string
	}{
		{"empty", "", "FILE is damaged (unexpected end of JSON input)" + restore},
		{"half", goodIdentity[:40], "FILE is damaged (unexpected end of JSON input)" + restore},
		{"zeros", "\x00\x00\x00\x00", `FILE is damaged (invalid character '\x00' looking for beginning of value)` + restore},
		{"without IDs", "{}", `FILE is damaged (member_id "", cluster_id "")` + restore},
		{"a member of 0", `{"format": 1, "member_id": "0", "cluster_id": "1"}`, `FILE is damaged (member_id "0", cluster_id "1")` + restore},
		{"no number", `{"format": 1, "member_id": "xyz", "cluster_id": "1"}`, `FILE is damaged (member_id "xyz", cluster_id "1")` + restore},
		{"too long a number", `{"format": 1, "member_id": "1", "cluster_id": "11112222333344445"}`, `FILE is damaged (member_id "1", cluster_id "11112222333344445")` + restore},
		{"newer", strings.Replace(goodIdentity, `"format": 1`, `"format": 2`, 1), "FILE was written by a newer limpet (format 2, this program knows 1); upgrade this program"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := folder(t, files{identityName: c.identity, lockName: "", databaseName: "x"})
			before := contents(t, dir)
			if err := inspectDataDir(dir); err != nil {
				t.Errorf("inspectDataDir: %v; the identity is openDataDir's to judge", err)
			}
			d, err := openDataDir(dir)
			wantSentence(t, "openDataDir", err, strings.ReplaceAll(c.want, "FILE", filepath.Join(dir, identityName)))
			if err == nil {
				closed(t, d)
			}
			wantUntouched(t, dir, before)

			// The refusal gave the lock back.
			if err := os.WriteFile(filepath.Join(dir, identityName), []byte(goodIdentity), 0o600); err != nil {
				t.Fatal(err)
			}
			closed(t, opened(t, dir))
		})
	}
}

func TestDataDirIsMade(t *testing.T) {
	for _, c := range []struct {
		name string
		path func(t *testing.T) string
	}{
		{"missing", func(t *testing.T) string { return filepath.Join(t.TempDir(), "a", "b") }},
		{"empty", func(t *testing.T) string { return folder(t, nil) }},
		{"fresh file system", func(t *testing.T) string { return folder(t, files{"lost+found/": ""}) }},
		{"crash before the lock was used", func(t *testing.T) string { return folder(t, files{lockName: ""}) }},
		{"crash while the identity was written", func(t *testing.T) string {
			return folder(t, files{lockName: "", identityName + ".tmp": `{"format"`})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := c.path(t)
			if err := inspectDataDir(path); err != nil {
				t.Fatalf("inspectDataDir: %v", err)
			}
			d := opened(t, path)
			first := d.id
			if first.member() == 0 || first.cluster() != 0 || first.Format != dataFormat {
				t.Errorf("identity: got %+v, want format %d, a member and no cluster yet", first, dataFormat)
			}
			closed(t, d)
			if _, err := os.Lstat(filepath.Join(path, identityName+".tmp")); !os.IsNotExist(err) {
				t.Errorf("%s.tmp is left: %v", identityName, err)
			}
			again := opened(t, path)
			if again.id != first {
				t.Errorf("identity at the second start: got %+v, want %+v", again.id, first)
			}
			closed(t, again)
		})
	}
}

func TestDataDirIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	closed(t, opened(t, path))
	for name, want := range map[string]fs.FileMode{"": 0o700, identityName: 0o600, lockName: 0o600} {
		info, err := os.Stat(filepath.Join(path, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("mode of %q: got %o, want %o", name, got, want)
		}
	}
}

func TestDataDirOfTwoDisksAreTwoMembers(t *testing.T) {
	a, b := opened(t, t.TempDir()), opened(t, t.TempDir())
	defer closed(t, a)
	defer closed(t, b)
	if a.id.member() == b.id.member() {
		t.Errorf("identities of two folders: got %+v and %+v, want no ID twice", a.id, b.id)
	}
}

func TestDataDirIsLocked(t *testing.T) {
	path := t.TempDir()
	first := opened(t, path)
	before := contents(t, path)
	_, err := openDataDir(path)
	wantSentence(t, "openDataDir while it is open", err, fmt.Sprintf("the data directory %s is in use by another limpet; stop that one first", path))
	wantUntouched(t, path, before)
	closed(t, first)
	closed(t, opened(t, path))
}

func TestDataDirThatCannotBeWritten(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may write everywhere: run the tests as another user to see this one")
	}
	path := folder(t, nil)
	chmod(t, path, 0o500)
	_, err := openDataDir(path)
	wantSentence(t, "openDataDir", err, fmt.Sprintf("the data directory %s is not writable: permission denied", path))

	_, err = openDataDir(filepath.Join(path, "below"))
	wantSentence(t, "openDataDir below it", err, fmt.Sprintf("the data directory %s cannot be created: permission denied", filepath.Join(path, "below")))

	chmod(t, path, 0o300)
	_, err = openDataDir(path)
	wantSentence(t, "openDataDir of an unreadable folder", err, fmt.Sprintf("the data directory %s cannot be read: permission denied", path))
}

func TestMintedIDs(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		id := mintID()
		if parseHex(id) == 0 || seen[id] {
			t.Fatalf("mintID: got %q, want a new number above 0", id)
		}
		seen[id] = true
	}
}

func chmod(t *testing.T, path string, mode fs.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(path, 0o700) })
}

func opened(t *testing.T, path string) *dataDir {
	t.Helper()
	d, err := openDataDir(path)
	if err != nil {
		t.Fatalf("openDataDir(%s): %v", path, err)
	}
	return d
}

func closed(t *testing.T, d *dataDir) {
	t.Helper()
	if err := d.close(); err != nil {
		t.Fatalf("close: %v", err)
	}
}

func wantSentence(t *testing.T, what string, err error, want string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s:\n got no error\nwant %s", what, want)
	} else if err.Error() != want {
		t.Errorf("%s:\n got %s\nwant %s", what, err, want)
	}
}

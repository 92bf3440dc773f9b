package cli

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"limpet/backup"
	"limpet/server"
	"limpet/server/servertest"
)

// runMember starts a member, and returns the address of its client port.
func runMember(t *testing.T, dir string) (at string, stop func()) {
	t.Helper()
	cfg := server.DefaultConfig()
	at = servertest.FreeAddr(t)
	cfg.Name, cfg.DataDir = "board", dir
	cfg.ListenClientURLs, cfg.ListenPeerURLs = []string{"http://" + at}, []string{"http://" + servertest.FreeAddr(t)}
	cfg.AdvertiseClientURLs, cfg.AdvertisePeerURLs = cfg.ListenClientURLs, cfg.ListenPeerURLs
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	s, err := server.Start(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	stop = func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return at, stop
}

// ctl asks the member at an address.
func ctl(t *testing.T, at string) *clientv3.Client {
	t.Helper()
	c, err := (&access{timeout: 10 * time.Second}).client(at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// succeed runs a command line that is to end well.
func succeed(t *testing.T, args ...string) string {
	t.Helper()
	out, err := limpet(args...)
	if err != nil {
		t.Fatalf("limpet %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// TestSnapshotsByHand: save, list, look, prune, delete and restore.
func TestSnapshotsByHand(t *testing.T) {
	cleanEnv(t)
	dir, dirs := t.TempDir(), t.TempDir()
	at, stop := runMember(t, filepath.Join(dir, "data"))
	if _, err := ctl(t, at).Put(t.Context(), "k", "v"); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "backup.db")
	for range 2 { // the second one takes the place of the first
		if out := succeed(t, "snapshot", "save", "--endpoints", at, file); out != "saved "+file+": revision 2, 20.0 KiB\n" {
			t.Errorf("save: %q", out)
		}
	}
	for _, endpoints := range []string{at, "127.0.0.1:1," + at, at} { // one that does not answer is passed over
		succeed(t, "snapshot", "save", "--endpoints", endpoints, "--timeout", "1s", "--dir", dirs, "--compress")
	}
	var all []backup.Snapshot
	if err := json.Unmarshal([]byte(succeed(t, "snapshot", "ls", "--dir", dirs, "--output", "json")), &all); err != nil || len(all) != 3 || all[0].Series != "on-demand-board-"+all[0].Cluster || len(all[0].Cluster) != 16 {
		t.Fatalf("list: %+v, %v", all, err)
	}
	if out := succeed(t, "snapshot", "list", "--dir", dirs); strings.Count(out, "\n") != 4 || !strings.Contains(out, all[2].Name) {
		t.Errorf("list: %q", out)
	}
	if out := succeed(t, "snapshot", "prune", "--dir", dirs, "--snapshot-retention", "2"); out != "removed "+all[0].Location+"\n" {
		t.Errorf("prune: %q", out)
	}
	if out := succeed(t, "snapshot", "prune", "--dir", dirs); out != "nothing to remove from "+dirs+"\n" {
		t.Errorf("prune again: %q", out)
	}
	succeed(t, "snapshot", "delete", "--dir", dirs, all[1].Name)
	if out := succeed(t, "snapshot", "status", "--dir", dirs, latest); !regexp.MustCompile(`(?s)^snapshot +\S+\.zst\nhash +right\n.*\nrevision +2\nkeys +1\n.*\nmembers +board\n$`).MatchString(out) {
		t.Errorf("status: %q", out)
	}
	var contents backup.Contents
	if err := json.Unmarshal([]byte(succeed(t, "snapshot", "status", "--output", "json", file)), &contents); err != nil || contents.Revision != 2 || contents.Keys != 1 || !contents.Hashed {
		t.Errorf("status: %+v, %v", contents, err)
	}
	spool := t.TempDir()
	if out := succeed(t, "sql", "--file", all[2].Location, "--temp-dir", spool, "--output", "csv", "SELECT key FROM revisions"); out != "key\nk\n" {
		t.Errorf("sql of a compressed snapshot: %q", out)
	}
	if left, err := os.ReadDir(spool); err != nil || len(left) != 0 {
		t.Errorf("sql has left %v, %v", left, err)
	}
	stop()
	none := filepath.Join(dir, "none")
	if _, err := limpet("snapshot", "restore", "--data-dir", none, filepath.Join(dir, "data", "limpet.db")); err == nil || !strings.Contains(err.Error(), "--skip-hash-check") {
		t.Errorf("restore of a file without a hash: %v", err)
	}
	if _, err := os.Stat(none); err == nil {
		t.Error("what was refused has made a folder")
	}
	for i, from := range [][]string{{file}, {"--dir", dirs, latest}, {"--skip-hash-check", filepath.Join(dir, "data", "limpet.db")}} {
		again := filepath.Join(dir, "again", string(rune('a'+i)))
		args := []string{"snapshot", "restore", "--data-dir", again, "--initial-advertise-peer-urls", "http://127.0.0.1:1", "--bump-revision", "100"}
		out := succeed(t, slices.Concat(args, from)...)
		if !strings.Contains(out, " at revision 102\n") || !strings.Contains(out, "limpet member add") {
			t.Errorf("restore of %v: %q", from, out)
		}
		if _, err := limpet(slices.Concat(args, from)...); err == nil || !strings.Contains(err.Error(), "there is a member in "+again) {
			t.Errorf("restore of %v again: %v", from, err)
		}
		at, stop := runMember(t, again)
		if got, err := ctl(t, at).Get(t.Context(), "k"); err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "v" || got.Header.Revision != 102 {
			t.Errorf("restored of %v: %v, %v", from, got, err)
		}
		stop()
	}
}

// TestSnapshotMistakes: each is told in a sentence.
func TestSnapshotMistakes(t *testing.T) {
	cleanEnv(t)
	none := filepath.Join(t.TempDir(), "none")
	text := writeFile(t, "x", "text")
	for line, says := range map[string]string{
		"save":                             "wants a FILE, or --dir, --data-dir or --s3-bucket",
		"save a b":                         "wants [FILE], got 2 words",
		"save --dir d f":                   "three places",
		"save --dir d --s3-bucket b":       "both given",
		"save --s3-folder x":               "--s3-bucket is missing",
		"save --dir d --snapshot-name a/b": "--snapshot-name",
		"save --endpoints 127.0.0.1:1 --timeout 1s f": "connection refused",
		"list":                                    "wants to know where",
		"list --dir d x":                          "takes no argument",
		"delete --dir " + none:                    "wants the names",
		"delete --dir " + none + " a-1":           "there is no such snapshot as a-1",
		"prune":                                   "wants to know where",
		"prune --dir d --snapshot-retention x":    "invalid value",
		"status":                                  "wants FILE|NAME|latest, got 0 words",
		"status " + none:                          "there is no file " + none,
		"status --dir " + none + " latest":        "there is no such snapshot in " + none,
		"status --dir " + none + " a-1":           "there is no such snapshot as a-1",
		"status " + text:                          "the snapshot is damaged",
		"restore " + text:                         "wants --data-dir",
		"restore --data-dir " + none + " " + text: "the snapshot is damaged",
		"restore " + text + " --no-such":          "there is no flag --no-such",
		"prune x":                                 "takes no argument",
		"restore --data-dir " + none + " --dir " + none + " latest": "there is no such snapshot",
	} {
		if _, err := limpet(append([]string{"snapshot"}, strings.Fields(line)...)...); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("limpet snapshot %s: %v, want %q", line, err, says)
		}
	}
	if _, err := os.Stat(none); err == nil {
		t.Error("a mistake has made the folder")
	}
}

// TestMeter: a line that is written over, not too often.
func TestMeter(t *testing.T) {
	var b strings.Builder
	now := time.Unix(100, 0)
	m := &meter{w: &b, what: "saving", began: now, now: func() time.Time { return now }}
	for _, done := range []int64{1 << 20, 2 << 20, 3 << 20} {
		now = now.Add(150 * time.Millisecond)
		m.tell(done, 4<<20)
	}
	m.end()
	want := "\rsaving: 1.0 MiB of 4.0 MiB, 6.7 MiB/s \x1b[K\rsaving: 3.0 MiB of 4.0 MiB, 6.7 MiB/s \x1b[K\r\x1b[K"
	if b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
	quiet := newMeter("saving")
	quiet.tell(1, 2) // a test has no terminal
	quiet.end()
}

// TestSecretOfBucket: neither a process list nor a file for all has it.
func TestSecretOfBucket(t *testing.T) {
	cleanEnv(t)
	file := filepath.Join(t.TempDir(), "config.yaml")
	for _, flag := range []string{"--s3-secret-key", "--s3-session-token"} {
		line := "limpet snapshot list " + flag + " hush"
		var args []string
		for _, w := range strings.Fields(line) {
			args = append(args, strings.Clone(w))
		}
		if got := hideSecrets(args, false); got[4] != "hush" || args[4] != "xxxx" {
			t.Errorf("%s goes on as %q, and shows %q", line, got[4], args[4])
		}
		out, err := limpet("config", "set", "--file", file, "--s3-bucket", "b", flag, "hush")
		if err == nil || !strings.Contains(err.Error(), "--s3-secret-key-file") || strings.Contains(out+err.Error(), "hush") {
			t.Errorf("config set %s: %q, %v", flag, out, err)
		}
	}
	written := writeFile(t, "config.yaml", "s3-bucket: b\ns3-access-key: a\ns3-secret-key: hush\n")
	if err := os.Chmod(written, 0o644); err != nil {
		t.Fatal(err)
	}
	cfg, notes, err := asked(t, "--config-file", written)
	if err != nil || cfg.Snapshots.S3.SecretKey != "hush" || len(notes) != 1 || !strings.Contains(notes[0], "chmod 600") || strings.Contains(notes[0], "hush") {
		t.Errorf("a file that all can read: %v, %v", notes, err)
	}
	t.Setenv("LIMPET_S3_BUCKET", "boards")
	t.Setenv("LIMPET_S3_SECRET_KEY", "hush")
	if _, err := limpet("snapshot", "list"); err == nil || !strings.Contains(err.Error(), "belong together") || strings.Contains(err.Error(), "hush") {
		t.Errorf("by variables, without a key: %v", err)
	}
}

// TestPruneOneName: names that begin alike are told apart, whatever dashes they and
// the members have.
func TestPruneOneName(t *testing.T) {
	cleanEnv(t)
	dir := backup.Dir{Path: t.TempDir()}
	at, _ := runMember(t, filepath.Join(t.TempDir(), "data"))
	nightly, upgrade := "nightly", "nightly-before-upgrade"
	for _, name := range []string{nightly, nightly, upgrade, upgrade} {
		succeed(t, "snapshot", "save", "--endpoints", at, "--dir", dir.Path, "--snapshot-name", name)
	}
	of := func() (all []backup.Snapshot, names []string) {
		all, err := dir.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range all {
			names = append(names, s.Name)
		}
		slices.Sort(names)
		return all, names
	}
	all, names := of()
	first := func(name string) string {
		return all[slices.IndexFunc(all, func(s backup.Snapshot) bool { return s.Series == name+"-board-"+s.Cluster })].Name
	}
	// Some of before, whose names do not tell the cluster. Only of the first one it is
	// clear what is the name, and what the member.
	data, err := os.ReadFile(all[0].Location)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"nightly-board-1", "nightly-board-2", "nightly-before-board-1", "nightly-before-board-2", "nightly-before-upgrade-board-1", "nightly-before-upgrade-board-2"} {
		if err := os.WriteFile(dir.File(name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	prune := []string{"snapshot", "prune", "--dir", dir.Path, "--snapshot-retention", "1", "--snapshot-name"}
	for _, c := range []struct {
		name string
		gone []string
	}{
		{"nightly-before", nil}, {"night", nil}, {"nightly-board", nil},
		{nightly, []string{first(nightly), "nightly-board-1"}}, {upgrade, []string{first(upgrade)}},
	} {
		out := succeed(t, append(prune, c.name)...)
		for _, gone := range c.gone {
			if !strings.Contains(out, "removed "+dir.File(gone)+"\n") {
				t.Errorf("prune of %s: %q, want %s", c.name, out, gone)
			}
			names = slices.DeleteFunc(names, func(n string) bool { return n == gone })
		}
		slices.Sort(names)
		if _, left := of(); !slices.Equal(left, names) {
			t.Fatalf("after prune of %s there are %v, want %v", c.name, left, names)
		}
	}
}

// TestSnapshotsBesideEnvironment: what the command line says goes before an environment
// that was made for the service.
func TestSnapshotsBesideEnvironment(t *testing.T) {
	cleanEnv(t)
	data, env, dir := filepath.Join(t.TempDir(), "data"), t.TempDir(), t.TempDir()
	at, _ := runMember(t, data)
	save := []string{"snapshot", "save", "--endpoints", at}
	for what, set := range map[string]map[string]string{
		"a folder": {"SNAPSHOT_DIR": env},
		"a bucket": {"S3_BUCKET": "boards", "S3_ENDPOINT": "127.0.0.1:1", "S3_ACCESS_KEY": "a", "S3_SECRET_KEY": "s"},
		"both":     {"SNAPSHOT_DIR": env, "S3_BUCKET": "boards", "S3_ENDPOINT": "127.0.0.1:1"},
	} {
		t.Run(what, func(t *testing.T) {
			for k, v := range set {
				t.Setenv("LIMPET_"+k, v)
			}
			file := filepath.Join(t.TempDir(), "saved.db")
			succeed(t, append(save, file)...)
			succeed(t, "snapshot", "status", file)
			succeed(t, append(save, "--dir", dir)...)
			succeed(t, append(save, "--dir", filepath.Join(data, server.SnapshotsName))...)
			for _, flag := range [][2]string{{"--dir", dir}, {"--data-dir", data}} {
				folder := dir
				if flag[0] == "--data-dir" {
					folder = filepath.Join(data, server.SnapshotsName)
				}
				if out := succeed(t, "snapshot", "list", flag[0], flag[1]); !strings.Contains(out, folder+"/on-demand-board-") {
					t.Errorf("list %v: %q", flag, out)
				}
			}
			if _, err := limpet("snapshot", "list", "--s3-bucket", "others", "--s3-endpoint", "127.0.0.1:1", "--s3-access-key", "a", "--s3-secret-key", "s", "--s3-timeout", "1s"); err == nil || !strings.Contains(err.Error(), "s3://others at 127.0.0.1:1") {
				t.Errorf("another bucket: %v", err)
			}
		})
	}
	// The folder of the member to be is no folder of snapshots.
	t.Setenv("LIMPET_SNAPSHOT_DIR", dir)
	succeed(t, "snapshot", "restore", "--data-dir", filepath.Join(t.TempDir(), "again"), "--initial-advertise-peer-urls", "http://127.0.0.1:1", latest)
	if _, err := limpet(append(save, "--dir", dir, "file")...); err == nil || !strings.Contains(err.Error(), "three places") {
		t.Errorf("a file and a folder on the line: %v", err)
	}
	t.Setenv("LIMPET_S3_BUCKET", "boards")
	if _, err := limpet("snapshot", "list"); err == nil || !strings.Contains(err.Error(), "both given") {
		t.Errorf("both, and nothing on the line: %v", err)
	}
}

// TestSnapshotFlagsBehind: flags stand behind arguments, too.
func TestSnapshotFlagsBehind(t *testing.T) {
	cleanEnv(t)
	dir := t.TempDir()
	at, _ := runMember(t, filepath.Join(t.TempDir(), "data"))
	file, again := filepath.Join(t.TempDir(), "b1.db"), filepath.Join(t.TempDir(), "again")
	if out := succeed(t, "snapshot", "save", file, "--endpoints", at, "--output", "json"); !strings.Contains(out, `"location": "`+file) {
		t.Errorf("save: %q", out)
	}
	succeed(t, "snapshot", "save", "--endpoints", at, "--dir", dir)
	if out := succeed(t, "snapshot", "status", latest, "--output=json", "--dir", dir); !strings.Contains(out, `"hashed": true`) {
		t.Errorf("status: %q", out)
	}
	if _, err := limpet("snapshot", "restore", file); err == nil || !strings.Contains(err.Error(), "wants --data-dir") {
		t.Errorf("restore without --data-dir: %v", err)
	}
	if out := succeed(t, "snapshot", "restore", file, "--data-dir", again, "--name", "b2", "--initial-advertise-peer-urls", "http://127.0.0.1:1"); !strings.Contains(out, again+" is member") {
		t.Errorf("restore: %q", out)
	}
	all, err := backup.Dir{Path: dir}.List(t.Context())
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	if out := succeed(t, "snapshot", "delete", all[0].Name, "--dir", dir); out != "removed "+all[0].Name+" from "+dir+"\n" {
		t.Errorf("delete: %q", out)
	}
}

// TestSaveOverNoFile: a folder, a pipe, a device and a link stay what they are.
func TestSaveOverNoFile(t *testing.T) {
	cleanEnv(t)
	dir := t.TempDir()
	t.Chdir(dir)
	at, _ := runMember(t, filepath.Join(t.TempDir(), "data"))
	file := filepath.Join(dir, "saved.db")
	for _, err := range []error{
		os.Mkdir("folder", 0o700), syscall.Mkfifo("pipe", 0o600), os.WriteFile("elsewhere", nil, 0o600), os.Symlink("elsewhere", "link"), os.Symlink("nowhere", "dangling"),
		os.Symlink("folder", "to-folder"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	modes := func() (all []string) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			all = append(all, e.Type().String()+" "+e.Name())
		}
		return all
	}
	before := modes()
	for path, says := range map[string]string{
		"-": "to standard output", "folder": "is a folder; give a file in it, or the folder with --dir", "pipe": "is no file",
		"link": "is a link", "dangling": "is a link", "to-folder": "is a link", "elsewhere/x": "cannot be looked at",
	} {
		if _, err := limpet("snapshot", "save", "--endpoints", at, path); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("save %s: %v, want %q", path, err, says)
		}
	}
	if after := modes(); !slices.Equal(before, after) {
		t.Errorf("there were %v, and are %v", before, after)
	}
	if err := backup.CheckFile("/dev/null"); err == nil {
		t.Error("/dev/null would be replaced")
	}
	succeed(t, "snapshot", "save", "--endpoints", at, "./-")
	succeed(t, "snapshot", "save", "--endpoints", at, file)
}

package s3

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// listed are the names that limpet snapshot list tells.
func listed(t *testing.T, flags ...string) []string {
	t.Helper()
	var all []struct{ Name string }
	out := succeed(t, append([]string{"snapshot", "list", "--output", "json"}, flags...)...)
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	var names []string
	for _, s := range all {
		names = append(names, s.Name)
	}
	return names
}

// TestByHand: save, list, look, restore, prune and delete, over http and over https.
func TestByHand(t *testing.T) {
	s := newStore(t)
	m := runMember(t, filepath.Join(t.TempDir(), "data"))
	m.ctl(t, "put", "k", "v")
	save := slices.Concat([]string{"snapshot", "save", "--endpoints", m.addr}, s.flags())
	if out := succeed(t, save...); !regexp.MustCompile(`^saved s3://boards/kitchen/a/on-demand-board-[0-9a-f]{16}-\d+: revision 2, 20\.0 KiB\n$`).MatchString(out) {
		t.Errorf("save: %q", out)
	}
	for range 3 {
		succeed(t, append(save, "--compress")...)
	}
	names := listed(t, s.flags()...)
	objects, uploads := s.objects()
	if len(names) != 4 || len(objects) != 4 || len(uploads) != 0 || objects[0] != "kitchen/a/"+names[0] {
		t.Errorf("listed %v, the store has %v and half of %v", names, objects, uploads)
	}
	if out := succeed(t, slices.Concat([]string{"snapshot", "prune", "--snapshot-retention", "2"}, s.flags())...); strings.Count(out, "removed s3://boards/kitchen/a/on-demand-board-") != 2 {
		t.Errorf("prune: %q", out)
	}
	if got := listed(t, s.flags()...); fmt.Sprint(got) != fmt.Sprint(names[2:]) {
		t.Errorf("after prune %v, want the newer two of %v", got, names)
	}
	addr, ca := s.secure(t)
	secure := []string{"--s3-endpoint", "https://" + addr, "--s3-endpoint-ca", ca, "--s3-bucket", bucket, "--s3-folder", "kitchen/a", "--s3-access-key", accessKey}
	if out := succeed(t, slices.Concat([]string{"snapshot", "status"}, secure, []string{"latest"})...); !strings.Contains(out, "hash        right") {
		t.Errorf("status: %q", out)
	}
	spool := t.TempDir()
	again := filepath.Join(t.TempDir(), "again")
	succeed(t, slices.Concat([]string{"snapshot", "restore", "--data-dir", again, "--temp-dir", spool, "--initial-advertise-peer-urls", "http://127.0.0.1:1"}, secure, []string{names[3]})...)
	if left, err := os.ReadDir(spool); err != nil || len(left) != 0 {
		t.Errorf("the way has left %v, %v", left, err)
	}
	if out := runMember(t, again).ctl(t, "get", "k", "--print-value-only"); out != "v\n" {
		t.Errorf("restored: %q", out)
	}
	succeed(t, slices.Concat([]string{"snapshot", "delete"}, secure, names[2:])...)
	if objects, _ := s.objects(); len(objects) != 0 {
		t.Errorf("after delete there are %v", objects)
	}
}

// TestRefusals: each in a sentence with a remedy.
func TestRefusals(t *testing.T) {
	s := newStore(t)
	addr, _ := s.secure(t)
	base := func(endpoint string, more ...string) []string {
		return append([]string{"--s3-endpoint", endpoint, "--s3-timeout", "20s"}, more...)
	}
	keys := []string{"--s3-access-key", accessKey}
	for what, c := range map[string]struct {
		flags []string
		says  string
	}{
		"no such bucket":    {base("http://"+s.addr, append(keys, "--s3-bucket", "none")...), "there is no such bucket: make it first"},
		"a wrong secret":    {base("http://"+s.addr, append(keys, "--s3-secret-key", "guessed", "--s3-bucket", bucket)...), "the store refuses the keys"},
		"unknown authority": {base(addr, append(keys, "--s3-bucket", bucket)...), "give its authority with --s3-endpoint-ca"},
		"http where https":  {base(s.addr, append(keys, "--s3-bucket", bucket)...), "s3://boards at"},
	} {
		out, err := limpet(t, append([]string{"snapshot", "list"}, c.flags...)...)
		if err == nil || !strings.Contains(out, c.says) {
			t.Errorf("%s: %v, %q; want %q", what, err, out, c.says)
		}
	}
	succeed(t, append([]string{"snapshot", "list", "--s3-skip-ssl-verify"}, base(addr, append(keys, "--s3-bucket", bucket)...)...)...)
}

// TestCutHalfWay: an upload that breaks off is not listed, costs none before, and what
// it left goes with the next one.
func TestCutHalfWay(t *testing.T) {
	s := newStore(t)
	m := runMember(t, filepath.Join(t.TempDir(), "data"))
	m.fill(t, 12)
	spool := t.TempDir()
	save := slices.Concat([]string{"snapshot", "save", "--endpoints", m.addr, "--temp-dir", spool}, s.flags())
	succeed(t, save...)
	before, _ := s.objects()
	if len(before) != 1 {
		t.Fatalf("there are %v", before)
	}
	for _, bytes := range []int64{1 << 20, 9 << 20} { // in the first part, and in the second one
		s.cutAfter(bytes)
		s.deaf.Store(true)
		if out, err := limpet(t, save...); err == nil || !strings.Contains(out, "s3://boards/kitchen/a at "+s.addr) {
			t.Errorf("cut after %d bytes: %v, %q", bytes, err, out)
		}
		if got := listedBehind(s); fmt.Sprint(got) != fmt.Sprint(before) {
			t.Errorf("cut after %d bytes: the bucket has %v, want %v as before", bytes, got, before)
		}
	}
	if _, uploads := s.objects(); len(uploads) == 0 {
		t.Error("nothing was left half-way: the test has cut nothing")
	}
	s.mend()
	succeed(t, save...)
	objects, uploads := s.objects()
	if len(objects) != 2 || len(uploads) != 0 {
		t.Errorf("afterwards the bucket has %v and half of %v; want two, and nothing half", objects, uploads)
	}
	if left, err := os.ReadDir(spool); err != nil || len(left) != 0 {
		t.Errorf("the way has left %v, %v", left, err)
	}
	if out := succeed(t, slices.Concat([]string{"snapshot", "status"}, s.flags(), []string{"latest"})...); !strings.Contains(out, "keys        24\n") {
		t.Errorf("the newest: %q", out)
	}
}

func listedBehind(s *store) []string {
	objects, _ := s.objects()
	return objects
}

// TestBySchedule: a member that leads uploads what has changed, keeps what it is told
// to keep, and goes on in its folder while the store is away. More often than once a
// minute it takes none.
func TestBySchedule(t *testing.T) {
	s := newStore(t)
	m := runMember(t, filepath.Join(t.TempDir(), "data"), append(s.flags(), "--snapshot-schedule", "@every 1m", "--snapshot-retention", "1")...)
	folder := filepath.Join(m.dir, "snapshots")
	for i := range 2 {
		m.ctl(t, "put", "k", fmt.Sprint(i))
		rev := fmt.Sprint("revision    ", i+2, "\n")
		byAndBy(t, rev+"in the bucket", func() bool {
			out, err := limpet(t, slices.Concat([]string{"snapshot", "status"}, s.flags(), []string{"latest"})...)
			return err == nil && strings.Contains(out, rev)
		})
	}
	byAndBy(t, "one in the bucket", func() bool { return len(listed(t, s.flags()...)) == 1 })
	if names := listed(t, s.flags()...); len(names) != 1 || !strings.HasPrefix(names[0], "scheduled-board-") || !strings.HasSuffix(names[0], ".zst") {
		t.Errorf("the bucket has %v, want one", names)
	}
	s.gate.kill()
	m.ctl(t, "put", "k", "while the store is away")
	byAndBy(t, "a snapshot in the folder, and failures counted", func() bool {
		out, err := limpet(t, "snapshot", "status", "--dir", folder, "latest")
		return err == nil && strings.Contains(out, "revision    4\n") && failures(t, m) != "0"
	})
	s.start()
	byAndBy(t, "the same in the bucket", func() bool {
		out, err := limpet(t, slices.Concat([]string{"snapshot", "status"}, s.flags(), []string{"latest"})...)
		return err == nil && strings.Contains(out, "revision    4\n")
	})
	log, err := os.ReadFile(m.log)
	if err != nil || strings.Contains(string(log), secretKey) || !strings.Contains(string(log), "the scheduled snapshot failed") {
		t.Errorf("the log tells the secret, or nothing of the failure: %v\n%s", err, log)
	}
}

func failures(t *testing.T, m *member) string {
	t.Helper()
	resp, err := http.Get("http://" + m.addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^limpet_snapshot_failures_total (\S+)$`).FindSubmatch(body)
	if found == nil {
		t.Fatal("there is no limpet_snapshot_failures_total")
	}
	return string(found[1])
}

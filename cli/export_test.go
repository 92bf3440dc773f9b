package cli

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// guard enables authentication; alice has the keys below /app/.
func guard(t *testing.T, c *clientv3.Client) {
	t.Helper()
	ctx := t.Context()
	first := func(_ any, err error) error { return err }
	err := errors.Join(
		first(c.RoleAdd(ctx, "app")),
		first(c.RoleGrantPermission(ctx, "app", "/app/", clientv3.GetPrefixRangeEnd("/app/"), clientv3.PermissionType(clientv3.PermReadWrite))),
		first(c.UserAdd(ctx, "alice", "w")), first(c.UserGrantRole(ctx, "alice", "app")),
		first(c.UserAdd(ctx, "root", "r")), first(c.UserGrantRole(ctx, "root", "root")),
		first(c.AuthEnable(ctx)))
	if err != nil {
		t.Fatal(err)
	}
}

// TestExportOfAPrefix: who has the keys of a prefix only exports these, and from
// and to a server where that is all the rights.
func TestExportOfAPrefix(t *testing.T) {
	cleanEnv(t)
	dir := t.TempDir()
	from, _ := runMember(t, filepath.Join(dir, "from"))
	to, _ := runMember(t, filepath.Join(dir, "to"))
	c := ctl(t, from)
	lease, err := c.Grant(t.Context(), 3600)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"/a", "/app/1", "/app/2", "/z"} {
		if _, err := c.Put(t.Context(), key, "v", clientv3.WithLease(lease.ID)); err != nil {
			t.Fatal(err)
		}
	}
	guard(t, c)
	guard(t, ctl(t, to))
	alice := []string{"export", "--endpoints", from, "--user", "alice:w"}
	if out := succeed(t, append(alice, "--prefix", "/app/", "--out", "-")...); strings.Count(out, "\n") != 2 {
		t.Errorf("to the output: %q", out)
	}
	if out := succeed(t, append(alice, "--prefix", "/app/", "--to", to, "--to-user", "alice:w")...); !strings.Contains(out, "2 keys of revision") {
		t.Errorf("to the other server: %q", out)
	}
	for _, args := range [][]string{
		{"--out", "-"}, {"--prefix", "/a", "--out", "-"}, {"--to", to, "--to-user", "root:r", "--force"},
	} {
		if _, err := limpet(append(alice, args...)...); err == nil || !strings.Contains(err.Error(), "permission denied; the user has to have rights to all keys of --prefix") {
			t.Errorf("export %q: got %v, want it refused", args, err)
		}
	}
	if _, err := limpet("export", "--endpoints", from, "--out", "-"); err == nil || !strings.Contains(err.Error(), "give --user") {
		t.Errorf("as nobody: got %v", err)
	}
}

package move

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"limpet/e2e/proc"
)

const patience = 60 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func clientOf(t *testing.T, url string, user ...string) *clientv3.Client {
	t.Helper()
	cfg := clientv3.Config{Endpoints: []string{url}, DialTimeout: patience, Logger: zap.NewNop()}
	if len(user) == 2 {
		cfg.Username, cfg.Password = user[0], user[1]
	}
	c, err := clientv3.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func timeout(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// limpet runs a command of limpet's, which must succeed, and reads its JSON.
func limpet(t *testing.T, out any, args ...string) {
	t.Helper()
	res := proc.Command{Path: proc.Binary(t, proc.Limpet), Args: args}.Run(t)
	if res.Code != 0 {
		t.Fatalf("limpet %q ended with %d: %s", args, res.Code, res.Stderr)
	}
	if err := json.Unmarshal([]byte(res.Stdout), out); err != nil {
		t.Fatalf("limpet %q printed %q: %v", args, res.Stdout, err)
	}
}

// refused runs one that must fail, and returns what it says.
func refused(t *testing.T, args ...string) string {
	t.Helper()
	res := proc.Command{Path: proc.Binary(t, proc.Limpet), Args: args}.Run(t)
	if res.Code == 0 {
		t.Fatalf("limpet %q succeeded: %s", args, res.Stdout)
	}
	return res.Stderr
}

// summary is what limpet import prints.
type summary struct {
	Keys      int64  `json:"keys"`
	Rows      int64  `json:"rows"`
	Revision  int64  `json:"revision"`
	Compacted int64  `json:"compacted_at"`
	Leases    int    `json:"leases"`
	Users     int    `json:"users"`
	Auth      bool   `json:"auth_enabled"`
	ClusterID string `json:"cluster_id"`
}

// exported is what limpet export prints.
type exported struct {
	Keys    int64 `json:"keys"`
	Written int64 `json:"written"`
	Expired int64 `json:"expired"`
	Extra   int64 `json:"extra"`
	Leases  int   `json:"leases"`
}

// onImport starts a limpet on an imported data directory.
func onImport(t *testing.T, dir string) *proc.Server {
	t.Helper()
	s := proc.New(t, proc.Limpet, proc.Bare(nil, nil))
	s.DataDir = dir
	// It has a token, as one that began by itself.
	proc.Flags("--data-dir="+dir, "--name=m1", "--listen-client-urls="+s.ClientURL(), "--advertise-client-urls="+s.ClientURL(),
		"--listen-peer-urls=https://"+s.Peer, "--initial-advertise-peer-urls=https://"+s.Peer, "--gossip-address=127.0.0.1:0")(s)
	s.Run()
	return s
}

func newDir(t *testing.T) string { return filepath.Join(t.TempDir(), "limpet") }

// work writes a past: creations, updates, deletions and transactions over few keys. Only what kine
// takes, too, if simple.
func work(t *testing.T, c *clientv3.Client, n int, simple bool) {
	t.Helper()
	ctx := timeout(t)
	r := rand.New(rand.NewPCG(1, uint64(n)))
	revs := map[string]int64{} // of the keys that exist
	for i := range n {
		key := fmt.Sprintf("/registry/things/%02d", r.IntN(40))
		value := fmt.Sprintf("%d %0*d", i, r.IntN(2000), i)
		at := clientv3.Compare(clientv3.ModRevision(key), "=", revs[key])
		var ops []clientv3.Op
		if revs[key] > 0 && r.IntN(4) == 0 {
			ops = append(ops, clientv3.OpDelete(key))
		} else {
			ops = append(ops, clientv3.OpPut(key, value))
		}
		if !simple && r.IntN(3) == 0 {
			ops = append(ops, clientv3.OpPut(fmt.Sprint("/beside/", r.IntN(10)), value), clientv3.OpDelete(fmt.Sprint("/registry/things/x", r.IntN(3))),
				clientv3.OpPut(fmt.Sprint("/registry/things/y", r.IntN(3)), ""))
		}
		txn := c.Txn(ctx).If(at).Then(ops...)
		if revs[key] > 0 {
			txn = txn.Else(clientv3.OpGet(key))
		}
		resp, err := txn.Commit()
		if err != nil || !resp.Succeeded {
			t.Fatalf("write %d of %s at %d: %+v, %v", i, key, revs[key], resp, err)
		}
		if ops[0].IsDelete() {
			delete(revs, key)
		} else {
			revs[key] = resp.Header.Revision
		}
	}
}

// keysAt lists what there is at a revision; its text leaves versions out, which kine does not tell.
func keysAt(t *testing.T, c *clientv3.Client, rev int64) (all []*mvccpb.KeyValue, text []string) {
	t.Helper()
	// kine takes prefixes only.
	resp, err := c.Get(timeout(t), "/", clientv3.WithPrefix(), clientv3.WithRev(rev))
	if err != nil {
		t.Fatalf("list at %d: %v", rev, err)
	}
	for _, kv := range resp.Kvs {
		text = append(text, fmt.Sprintf("%s=%s created %d changed %d lease %d", kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Lease))
	}
	return resp.Kvs, text
}

// eventsFrom collects the events of a watch from a revision on, up to one of revision last.
func eventsFrom(t *testing.T, c *clientv3.Client, from, last int64) (text []string) {
	t.Helper()
	ctx, cancel := context.WithCancel(timeout(t))
	defer cancel()
	for resp := range c.Watch(ctx, "/registry/", clientv3.WithPrefix(), clientv3.WithRev(from)) {
		if err := resp.Err(); err != nil {
			t.Fatalf("watch from %d: %v", from, err)
		}
		for _, e := range resp.Events {
			line := fmt.Sprintf("%s %s at %d", e.Type, e.Kv.Key, e.Kv.ModRevision)
			if e.Type == clientv3.EventTypePut {
				line += fmt.Sprintf(" created %d: %s", e.Kv.CreateRevision, e.Kv.Value)
			}
			if text = append(text, line); e.Kv.ModRevision >= last {
				return text
			}
		}
	}
	t.Fatalf("the watch from %d ended before revision %d", from, last)
	return nil
}

package server

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// crashImage copies what kill -9 would leave of a member: the database first,
// then the log, which goes on growing meanwhile.
func crashImage(t *testing.T, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "data")
	if err := os.MkdirAll(filepath.Join(to, raftDirName), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{databaseName + "*", "*.json", raftDirName + "/*"} {
		files, err := filepath.Glob(filepath.Join(from, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if errors.Is(err, os.ErrNotExist) {
				continue // the spare segment comes and goes
			}
			rel, relErr := filepath.Rel(from, file)
			if err := errors.Join(err, relErr, os.WriteFile(filepath.Join(to, rel), data, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return to
}

// syncBuffer is a log that can be read while it is written.
type syncBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) has(part string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Contains(b.buf.String(), part)
}

// A member that was killed before its database was written, and comes back
// without the others, serves serializable reads of what it has answered, under
// the cluster's name, and nothing that needs a leader.
func TestServesAlone(t *testing.T) {
	members := startThree(t)
	m := members[0]
	m.put("k", "v")
	cluster := m.dir.now().cluster()
	cfg := m.cfg
	cfg.DataDir = crashImage(t, cfg.DataDir)
	for _, m := range members {
		m.stop()
	}

	ctx, cancel := context.WithCancel(t.Context())
	said := new(syncBuffer)
	ended := make(chan error, 1)
	// Owner: this test; ends with cancel.
	go func() {
		_, err := Start(ctx, cfg, slog.New(slog.NewTextHandler(said, nil)))
		ended <- err
	}()
	conn, err := grpc.NewClient(strings.TrimPrefix(cfg.ListenClientURLs[0], "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	kv := pb.NewKVClient(conn)
	var resp *pb.RangeResponse
	eventually(t, "a serializable read", func() bool {
		rctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		resp, err = kv.Range(rctx, &pb.RangeRequest{Key: []byte("k"), Serializable: true})
		return err == nil
	})
	if len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != "v" || resp.Header.ClusterId != cluster {
		t.Errorf("got %v of cluster %x, want v of cluster %x", resp.Kvs, resp.Header.ClusterId, cluster)
	}
	// It says so once it serves.
	eventually(t, "the log to say what is served", func() bool {
		return said.has("this member only serves serializable reads") && said.has("revision=2")
	})
	rctx, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
	if _, err := kv.Put(rctx, &pb.PutRequest{Key: []byte("k")}); err == nil {
		t.Error("a put was acknowledged")
	}
	stop()
	cancel()
	if err := <-ended; err == nil {
		t.Error("Start has returned without an error")
	}
}

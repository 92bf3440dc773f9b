package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// TestClusterMoves: a cluster that lived on kine, or on etcd, goes on on limpet with
// the resource versions that it had, and after an export on a fresh etcd. The API
// server is stopped for each step, as whoever moves has to stop k3s.
func TestClusterMoves(t *testing.T) {
	for _, from := range []StoreKind{"kine", Etcd} {
		t.Run("from "+string(from), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), storyDeadline)
			defer cancel()
			m := newMove(t, ctx, from)
			m.onSource(ctx)
			m.toLimpet(ctx)
			m.toEtcd(ctx)
		})
	}
}

// move is a cluster without a shared store: an API server that is started on one
// store after the other.
type move struct {
	*Cluster
	t         *testing.T
	from      StoreKind
	source    *Process
	imported  []string // arguments of limpet import
	dataDir   string
	maps      content
	eventRev  string // of an event before the one that a watch must tell
	hash      string // of an etcd, before
	hashedRev int64
}

func newMove(t *testing.T, ctx context.Context, from StoreKind) *move {
	t.Helper()
	binaries, err := BuildBinaries(ctx)
	if err != nil {
		t.Fatal(err)
	}
	m := &move{Cluster: &Cluster{dir: t.TempDir(), binaries: binaries, searched: logOffset{}}, t: t, from: from}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(m.Tails(2000))
		}
		if m.source != nil {
			m.source.Kill()
		}
		if m.apiServer != nil {
			m.apiServer.Kill()
		}
		if err := m.Store.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := m.prepare(); err != nil {
		t.Fatal(err)
	}
	m.dataDir = filepath.Join(m.dir, "limpet")
	return m
}

func (m *move) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// use makes the API server's next store the one at endpoint.
func (m *move) use(endpoint string) {
	m.t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 5 * time.Second})
	m.must(err)
	_ = m.Store.Client.Close()
	m.Store.Endpoint, m.Store.Client = endpoint, client
}

// build builds a program of another module of the repository.
func (m *move) build(ctx context.Context, name, folder, pkg string) string {
	m.t.Helper()
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	m.must(err)
	repository := filepath.Dir(filepath.Dir(filepath.Dir(strings.TrimSpace(string(out)))))
	bin := os.Getenv("LIMPET_E2E_BIN")
	if bin == "" {
		bin = filepath.Join(repository, ".cache", "bin")
	}
	path, err := build(ctx, filepath.Join(repository, folder), bin, name, pkg)
	m.must(err)
	return path
}

func (m *move) startEtcd(ctx context.Context, name string) (p *Process, endpoint, dir string) {
	m.t.Helper()
	bin := m.build(ctx, "etcd", "e2e", "go.etcd.io/etcd/server/v3")
	ports, err := FreePorts(2)
	m.must(err)
	endpoint, dir = fmt.Sprintf("http://127.0.0.1:%d", ports[0]), filepath.Join(m.dir, name)
	peer := fmt.Sprintf("http://127.0.0.1:%d", ports[1])
	p, err = StartProcess(name, filepath.Join(m.dir, name+".log"), nil, bin, "--data-dir="+dir, "--name=one",
		"--listen-client-urls="+endpoint, "--advertise-client-urls="+endpoint, "--listen-peer-urls="+peer,
		"--initial-advertise-peer-urls="+peer, "--initial-cluster=one="+peer, "--watch-progress-notify-interval=5s")
	m.must(err)
	return p, endpoint, dir
}

// onSource lets the cluster live on kine, or etcd.
func (m *move) onSource(ctx context.Context) {
	t := m.t
	t.Helper()
	var endpoint, file string
	if m.from == Etcd {
		var dir string
		m.source, endpoint, dir = m.startEtcd(ctx, "etcd-before")
		file = filepath.Join(dir, "member", "snap", "db")
	} else {
		bin := m.build(ctx, "kine", "bench/kine", "github.com/k3s-io/kine")
		ports, err := FreePorts(1)
		m.must(err)
		file, endpoint = filepath.Join(m.dir, "state.db"), fmt.Sprintf("http://127.0.0.1:%d", ports[0])
		m.source, err = StartProcess("kine", filepath.Join(m.dir, "kine.log"), nil, bin,
			"--endpoint=sqlite://"+file+"?_journal=WAL&cache=shared&_busy_timeout=30000&_txlock=immediate",
			fmt.Sprintf("--listen-address=tcp://127.0.0.1:%d", ports[0]), "--metrics-bind-address=0")
		m.must(err)
	}
	m.imported = []string{string(m.from), file}
	m.use(endpoint)
	m.must(m.StartAPIServer(ctx))
	inParallel(t, 8, 60, func(i int) error {
		_, err := m.Client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("map-%05d", i)}, Data: map[string]string{"n": fmt.Sprint(i)},
		}, metav1.CreateOptions{})
		return err
	})
	for i := range 20 {
		name := fmt.Sprintf("map-%05d", i)
		cm, err := m.Client.CoreV1().ConfigMaps("default").Get(ctx, name, metav1.GetOptions{})
		m.must(err)
		if i < 5 {
			m.must(m.Client.CoreV1().ConfigMaps("default").Delete(ctx, name, metav1.DeleteOptions{}))
			continue
		}
		cm.Data["n"] = "changed"
		_, err = m.Client.CoreV1().ConfigMaps("default").Update(ctx, cm, metav1.UpdateOptions{})
		m.must(err)
	}
	m.eventRev = m.event(ctx, "first")
	m.event(ctx, "second")
	m.maps = m.list(ctx)
	m.must(m.apiServer.Stop(20 * time.Second))
	if m.from == Etcd {
		resp, err := m.Store.Client.Get(ctx, "x")
		m.must(err)
		m.hashedRev = resp.Header.Revision
		m.hash = m.hashKV(ctx)
	}
	// etcd ends by the signal that it was sent, once it is done.
	if err := m.source.Stop(20 * time.Second); err != nil && !strings.Contains(err.Error(), "signal: terminated") {
		t.Fatal(err)
	}
}

func (m *move) hashKV(ctx context.Context) string {
	m.t.Helper()
	resp, err := m.Store.Client.HashKV(ctx, m.Store.Endpoint, m.hashedRev)
	m.must(err)
	return fmt.Sprintf("%08x at %d, compacted at %d", resp.Hash, resp.HashRevision, resp.CompactRevision)
}

// event makes an Event, which expires, and which the API server does not cache.
func (m *move) event(ctx context.Context, name string) (version string) {
	m.t.Helper()
	e, err := m.Client.CoreV1().Events("default").Create(ctx, &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: name}, InvolvedObject: corev1.ObjectReference{Namespace: "default", Kind: "ConfigMap", Name: "map-00030"},
	}, metav1.CreateOptions{})
	m.must(err)
	return e.ResourceVersion
}

func (m *move) list(ctx context.Context) content {
	m.t.Helper()
	l, err := m.Client.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{})
	m.must(err)
	return contentOf(l.Items)
}

// toLimpet imports, and goes on there as if nothing had been.
func (m *move) toLimpet(ctx context.Context) {
	t := m.t
	t.Helper()
	var sum struct{ Revision, Keys int64 }
	m.limpet(ctx, &sum, append([]string{"import"}, append(m.imported, "--data-dir", m.dataDir, "--output", "json")...)...)
	m.startLimpet(ctx)
	if got := m.hashedRev; got != 0 {
		if hash := m.hashKV(ctx); hash != m.hash {
			t.Errorf("HashKV of limpet is %s, etcd's was %s", hash, m.hash)
		}
	}
	m.must(m.StartAPIServer(ctx))
	sameContent(t, "after the import", m.list(ctx), m.maps)
	w, err := m.Client.CoreV1().Events("default").Watch(ctx, metav1.ListOptions{ResourceVersion: m.eventRev})
	m.must(err)
	select {
	case e := <-w.ResultChan():
		if got, ok := e.Object.(*corev1.Event); e.Type != watch.Added || !ok || got.Name != "second" {
			t.Errorf("the watch from before tells %s %+v first, want the event that came next", e.Type, e.Object)
		}
	case <-ctx.Done():
		t.Error("the watch from before tells nothing")
	}
	w.Stop() // or the API server waits for it in the end
	// Events of before expire.
	m.must(Until(ctx, 2*eventTTL+30*time.Second, func(ctx context.Context) error {
		l, err := m.Client.CoreV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=map-00030"})
		if err == nil && len(l.Items) > 0 {
			err = fmt.Errorf("%d events are still there", len(l.Items))
		}
		return err
	}))
	created, err := m.Client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "on-limpet"}}, metav1.CreateOptions{})
	m.must(err)
	m.maps[created.Name] = created.ResourceVersion
	sameContent(t, "on limpet", m.list(ctx), m.maps)
	m.must(m.apiServer.Stop(20 * time.Second))
}

func (m *move) startLimpet(ctx context.Context) {
	m.t.Helper()
	ports, err := FreePorts(2)
	m.must(err)
	endpoint, peer := fmt.Sprintf("http://127.0.0.1:%d", ports[0]), fmt.Sprintf("https://127.0.0.1:%d", ports[1])
	m.use(endpoint)
	m.Store.Kind, m.Store.bin, m.Store.log = Limpet, m.binaries.Limpet, filepath.Join(m.dir, "limpet.log")
	m.Store.args = []string{
		"server", "--data-dir=" + m.dataDir, "--listen-client-urls=" + endpoint, "--advertise-client-urls=" + endpoint,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--gossip-address=127.0.0.1:0", "--watch-progress-notify-interval=5s",
	}
	m.must(m.Store.Start(ctx))
}

// toEtcd exports to a fresh etcd. Versions begin anew there, names and content
// stay.
func (m *move) toEtcd(ctx context.Context) {
	t := m.t
	t.Helper()
	etcd, endpoint, _ := m.startEtcd(ctx, "etcd-after")
	defer etcd.Kill()
	var out struct{ Keys, Written, Extra int64 }
	m.limpet(ctx, &out, "export", "--endpoints", m.Store.Endpoint, "--to", endpoint, "--timeout", "60s", "--output", "json")
	if out.Keys == 0 || out.Keys > out.Written || out.Extra != 0 {
		t.Errorf("exported %+v", out)
	}
	m.use(endpoint)
	m.must(m.StartAPIServer(ctx))
	got := m.list(ctx)
	for name := range m.maps {
		if got[name] == "" {
			t.Errorf("%s is not in etcd", name)
		}
	}
	if len(got) != len(m.maps) {
		t.Errorf("%d ConfigMaps in etcd, want %d", len(got), len(m.maps))
	}
	cm, err := m.Client.CoreV1().ConfigMaps("default").Get(ctx, "map-00010", metav1.GetOptions{})
	m.must(err)
	if cm.Data["n"] != "changed" {
		t.Errorf("map-00010 holds %q", cm.Data["n"])
	}
	cm.Data["n"] = "again"
	_, err = m.Client.CoreV1().ConfigMaps("default").Update(ctx, cm, metav1.UpdateOptions{})
	m.must(err)
	m.must(m.apiServer.Stop(20 * time.Second))
}

// limpet runs a command and reads what it prints.
func (m *move) limpet(ctx context.Context, out any, args ...string) {
	m.t.Helper()
	cmd := exec.CommandContext(ctx, m.binaries.Limpet, args...)
	text, err := cmd.Output()
	if err != nil {
		if exit, ok := err.(*exec.ExitError); ok {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		m.t.Fatalf("limpet %q: %v", args, err)
	}
	m.must(json.Unmarshal(text, out))
}

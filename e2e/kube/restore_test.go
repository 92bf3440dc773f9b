package kube

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// TestRestoreIsNoticed: a snapshot is saved while Kubernetes writes, and later restored below an API
// server that goes on running. All that was answered before the save is in it; the API server's
// caches, and an informer of one of its clients, come to hold what the snapshot holds, without anybody
// restarting them.
func TestRestoreIsNoticed(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), storyDeadline)
	defer cancel()
	m := newMove(t, ctx, Limpet)
	m.startLimpet(ctx)
	m.must(m.StartAPIServer(ctx))
	maps := m.Client.CoreV1().ConfigMaps("default")
	create := func(name string) error {
		_, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		return err
	}
	m.must(create("deleted-later"))
	informer := informers.NewSharedInformerFactoryWithOptions(m.Client, 0, informers.WithNamespace("default")).Core().V1().ConfigMaps().Informer()
	running, stop := context.WithCancel(ctx)
	var ended sync.WaitGroup
	defer func() { stop(); ended.Wait() }()
	ended.Go(func() { informer.RunWithContext(running) })
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		t.Fatal("the informer does not begin")
	}

	file := filepath.Join(m.dir, "saved.db")
	answered := saveUnderLoad(t, ctx, create, func() error {
		out, err := exec.CommandContext(ctx, m.binaries.Limpet, "snapshot", "save", "--endpoints", m.Store.Endpoint, file).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("limpet snapshot save: %w: %s", err, out)
		}
		return err
	})
	m.must(create("after-the-save"))
	m.must(maps.Delete(ctx, "deleted-later", metav1.DeleteOptions{}))
	m.must(Until(ctx, time.Minute, func(context.Context) error { return holds(informer.GetStore(), "after-the-save", "deleted-later") }))

	m.must(m.Store.Stop())
	restored := filepath.Join(m.dir, "restored")
	var out struct{ Revision int64 }
	m.limpet(ctx, &out, "snapshot", "restore", "--data-dir", restored, "--output", "json", file)
	if out.Revision < 1e9 {
		t.Errorf("restored at revision %d, want it raised", out.Revision)
	}
	at := slices.Index(m.Store.args, "--data-dir="+m.dataDir)
	m.Store.args[at] = "--data-dir=" + restored
	m.must(m.Store.Start(ctx))

	m.must(Until(ctx, 2*time.Minute, func(context.Context) error { return holds(informer.GetStore(), "deleted-later", "after-the-save") }))
	m.must(Until(ctx, time.Minute, m.Ready))
	for _, version := range []string{"", "0"} { // from the store, and from the cache
		l, err := maps.List(ctx, metav1.ListOptions{ResourceVersion: version})
		m.must(err)
		there := contentOf(l.Items)
		for _, name := range append(answered, "deleted-later") {
			if there[name] == "" {
				t.Errorf("%s was answered before the save, and is not there (list of version %q)", name, version)
			}
		}
		if there["after-the-save"] != "" {
			t.Errorf("what was made after the save is there (list of version %q)", version)
		}
	}
	m.must(create("after-the-restore"))
	m.must(Until(ctx, time.Minute, func(context.Context) error { return holds(informer.GetStore(), "after-the-restore", "after-the-save") }))
}

// saveUnderLoad saves while objects are created, and returns the names of those that were answered
// before it began.
func saveUnderLoad(t *testing.T, ctx context.Context, create func(name string) error, save func() error) (answered []string) {
	t.Helper()
	const atLeast = 50
	var mu sync.Mutex // guards names
	var names []string
	loading, stop := context.WithCancel(ctx)
	var ended sync.WaitGroup
	ended.Go(func() {
		for i := 0; loading.Err() == nil; i++ {
			name := fmt.Sprintf("load-%05d", i)
			if err := create(name); err != nil {
				t.Errorf("create %s: %v", name, err)
				return
			}
			mu.Lock()
			names = append(names, name)
			mu.Unlock()
		}
	})
	defer func() { stop(); ended.Wait() }()
	so := func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(names)
	}
	enough := func(n int) {
		if err := Until(ctx, time.Minute, func(context.Context) error {
			if got := len(so()); got < n {
				return fmt.Errorf("%d objects, want %d", got, n)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	enough(atLeast)
	answered = so()
	if err := save(); err != nil {
		t.Fatal(err)
	}
	enough(len(answered) + atLeast) // it goes on
	return answered
}

// holds is nil if the informer's store has one ConfigMap of the default namespace and lacks another.
func holds(s cache.Store, has, lacks string) error {
	if _, there, err := s.GetByKey("default/" + has); err != nil || !there {
		return fmt.Errorf("%s is not there (%v)", has, err)
	}
	if _, there, err := s.GetByKey("default/" + lacks); err != nil || there {
		return fmt.Errorf("%s is there (%v)", lacks, err)
	}
	return nil
}

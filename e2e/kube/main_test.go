package kube

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	corev1 "k8s.io/api/core/v1"
)

// storyDeadline bounds each story as a whole.
const storyDeadline = 5 * time.Minute

// run is the one cluster that all stories share; starting it costs more than
// most of them.
var run struct {
	once    sync.Once
	dir     string
	cluster *Cluster
	err     error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if run.cluster != nil {
		if err := run.cluster.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "close the cluster:", err)
			code = 1
		}
	}
	if code == 0 && os.Getenv("LIMPET_E2E_RUN") == "" && run.dir != "" {
		_ = os.RemoveAll(run.dir) // a temporary folder; the system clears the rest
	} else if run.dir != "" {
		fmt.Fprintln(os.Stderr, "data, keys and logs are kept in", run.dir)
	}
	os.Exit(code)
}

// startRun builds the programs and starts the shared cluster.
func startRun() {
	run.dir = os.Getenv("LIMPET_E2E_RUN")
	if run.dir == "" {
		if run.dir, run.err = os.MkdirTemp("", "limpet-kube-"); run.err != nil {
			return
		}
	}
	begin := time.Now()
	binaries, err := BuildBinaries(context.Background())
	if err != nil {
		run.err = err
		return
	}
	built := time.Now()
	run.cluster, run.err = StartCluster(context.Background(), binaries, run.dir)
	fmt.Fprintf(os.Stderr, "on %s: programs built in %.0fs, cluster started in %.1fs\n",
		binaries.StoreKind, built.Sub(begin).Seconds(), time.Since(built).Seconds())
}

// errToldBefore stands in for a long reason in all stories but the first.
var errToldBefore = errors.New("for the reason told before")

// story hands out the running cluster. When the test is over the logs are
// searched, and shown if it failed.
func story(t *testing.T) (*Cluster, context.Context) {
	t.Helper()
	run.once.Do(startRun)
	if run.err != nil {
		err := run.err
		run.err = errToldBefore
		t.Fatalf("no cluster: %v", err)
	}
	c := run.cluster
	ctx, cancel := context.WithTimeout(context.Background(), storyDeadline)
	t.Cleanup(func() {
		cancel()
		complaints, err := c.Complaints()
		if err != nil {
			t.Errorf("read the logs: %v", err)
		}
		for _, line := range complaints {
			t.Errorf("in the log: %s", line)
		}
		if t.Failed() {
			t.Logf("the ends of the logs:%s", c.Tails(3<<10))
		}
	})
	until(t, ctx, readyDeadline, "cluster ready before the story", func(ctx context.Context) error {
		if err := c.Store.Healthy(ctx); err != nil {
			return err
		}
		return c.Ready(ctx)
	})
	return c, ctx
}

// until fails the test when met is not met in time.
func until(t *testing.T, ctx context.Context, deadline time.Duration, what string, met func(context.Context) error) {
	t.Helper()
	if err := Until(ctx, deadline, met); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// must ends the test on an error.
func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// number reads a size of the stories from the environment.
func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: want a number above 0", name, text)
	}
	return n
}

// revision reads a resourceVersion, which on this kind of store is a revision.
func revision(t *testing.T, resourceVersion string) int64 {
	t.Helper()
	rev, err := strconv.ParseInt(resourceVersion, 10, 64)
	if err != nil || rev <= 0 {
		t.Fatalf("resourceVersion %q is no revision", resourceVersion)
	}
	return rev
}

// rootCertificate is the ConfigMap that the controller manager puts into each
// namespace.
const rootCertificate = "kube-root-ca.crt"

// newNamespace creates a namespace, waits until the controller manager has made
// it usable, and deletes it when the story is over, without waiting.
func newNamespace(t *testing.T, ctx context.Context, c *Cluster, prefix string) string {
	t.Helper()
	namespace, err := c.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: prefix + "-"},
	}, metav1.CreateOptions{})
	must(t, "create namespace", err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), readyDeadline)
		defer cancel()
		// The story may have deleted it, or have broken the cluster: its own
		// words count.
		_ = c.Client.CoreV1().Namespaces().Delete(ctx, namespace.Name, metav1.DeleteOptions{})
	})
	until(t, ctx, time.Minute, "service account and root certificate in "+namespace.Name, func(ctx context.Context) error {
		if err := c.HasServiceAccount(ctx, namespace.Name); err != nil {
			return err
		}
		_, err := c.Client.CoreV1().ConfigMaps(namespace.Name).Get(ctx, rootCertificate, metav1.GetOptions{})
		return err
	})
	return namespace.Name
}

// inParallel calls do for 0..n-1 from a number of goroutines and fails the test
// with the first error.
func inParallel(t *testing.T, workers, n int, do func(i int) error) {
	t.Helper()
	var wait sync.WaitGroup
	errs := make(chan error, workers)
	next := make(chan int)
	for range workers {
		// Owner: this call; ends when next is closed or do fails.
		wait.Go(func() {
			for i := range next {
				if err := do(i); err != nil {
					errs <- fmt.Errorf("item %d: %w", i, err)
					return
				}
			}
		})
	}
	var failed error
	for i := 0; i < n && failed == nil; i++ {
		select {
		case next <- i:
		case failed = <-errs:
		}
	}
	close(next)
	wait.Wait()
	if failed == nil && len(errs) > 0 {
		failed = <-errs
	}
	must(t, "in parallel", failed)
}

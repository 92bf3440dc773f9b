package kube

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const (
	// compactionInterval is how often the API server compacts; five minutes by
	// default. A list read in pages has to finish within it.
	compactionInterval = 20 * time.Second
	// eventTTL is how long Events live; one hour by default. The API server adds
	// five per cent to the lease.
	eventTTL = 20 * time.Second
	// readyDeadline bounds the API server's start and its recovery.
	readyDeadline = 90 * time.Second
)

// featureGates are the beta features that lean on the store most. All are on by
// default in 1.37; they are named so that a later default cannot hide them.
// (Consistent lists from cache are no gate any more: always on.)
const featureGates = "EtcdRangeStream=true,WatchList=true,ListFromCacheSnapshot=true,DetectCacheInconsistency=true"

// Cluster is a store with an API server and a controller manager on it.
type Cluster struct {
	Store   *Store
	Config  *rest.Config
	Client  kubernetes.Interface
	Dynamic dynamic.Interface

	dir        string
	binaries   Binaries
	keys       *credentials
	apiPort    int
	apiServer  *Process
	manager    *Process
	searched   logOffset
	kubeconfig string
}

// StartCluster starts everything, with data, keys and logs below dir.
func StartCluster(ctx context.Context, b Binaries, dir string) (*Cluster, error) {
	c := &Cluster{dir: dir, binaries: b, searched: logOffset{}}
	if err := c.prepare(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if err := c.Store.Start(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if err := c.StartAPIServer(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if err := c.startManager(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// prepare makes folders, keys, ports and clients.
func (c *Cluster) prepare() (err error) {
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return err
	}
	if c.Store, err = NewStore(c.binaries, c.dir); err != nil {
		return err
	}
	if c.keys, err = newCredentials(filepath.Join(c.dir, "keys")); err != nil {
		return err
	}
	ports, err := FreePorts(1)
	if err != nil {
		return err
	}
	c.apiPort = ports[0]
	server := fmt.Sprintf("https://127.0.0.1:%d", c.apiPort)
	if c.kubeconfig, err = c.keys.kubeconfig(server, "controller-manager"); err != nil {
		return err
	}
	c.Config = c.keys.restConfig(server, "admin")
	if c.Client, err = kubernetes.NewForConfig(c.Config); err != nil {
		return err
	}
	c.Dynamic, err = dynamic.NewForConfig(c.Config)
	return err
}

// StartAPIServer starts kube-apiserver and waits for /readyz.
func (c *Cluster) StartAPIServer(ctx context.Context) (err error) {
	// The checker panics when cache and store differ, instead of only logging it.
	env := []string{"KUBE_WATCHCACHE_CONSISTENCY_CHECKER=true"}
	c.apiServer, err = StartProcess("kube-apiserver", filepath.Join(c.dir, "kube-apiserver.log"), env, c.binaries.APIServer,
		"--etcd-servers="+c.Store.Endpoint,
		"--etcd-compaction-interval="+compactionInterval.String(),
		"--event-ttl="+eventTTL.String(),
		"--feature-gates="+featureGates,
		"--bind-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", c.apiPort),
		// Written into the kubernetes endpoints, where loopback is not allowed;
		// from the block reserved for documentation, and nobody dials it.
		"--advertise-address=192.0.2.1",
		"--authorization-mode=RBAC",
		"--client-ca-file="+c.keys.path("ca.crt"),
		"--tls-cert-file="+c.keys.path("apiserver.crt"),
		"--tls-private-key-file="+c.keys.path("apiserver.key"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+c.keys.path("service-account.key"),
		"--service-account-signing-key-file="+c.keys.path("service-account.key"),
		"--service-cluster-ip-range=10.0.0.0/24",
	)
	if err != nil {
		return err
	}
	return Until(ctx, readyDeadline, c.Ready)
}

// RestartAPIServer kills the API server and starts it with empty caches.
func (c *Cluster) RestartAPIServer(ctx context.Context) error {
	c.apiServer.Kill()
	return c.StartAPIServer(ctx)
}

// startManager starts kube-controller-manager and waits until it has done
// something: the service account of a namespace is its work.
func (c *Cluster) startManager(ctx context.Context) (err error) {
	c.manager, err = StartProcess("kube-controller-manager", filepath.Join(c.dir, "kube-controller-manager.log"), nil, c.binaries.ControllerManager,
		"--kubeconfig="+c.kubeconfig,
		"--secure-port=0",
		"--use-service-account-credentials=true",
		"--service-account-private-key-file="+c.keys.path("service-account.key"),
		"--root-ca-file="+c.keys.path("ca.crt"),
		// It renews its Lease as in a real cluster, but has a minute before it
		// gives up: the store is killed a few times underneath.
		"--leader-elect=true",
		"--leader-elect-lease-duration=90s",
		"--leader-elect-renew-deadline=60s",
		"--kube-api-qps=500",
		"--kube-api-burst=1000",
	)
	if err != nil {
		return err
	}
	return Until(ctx, readyDeadline, func(ctx context.Context) error {
		if !c.manager.Alive() {
			return fmt.Errorf("controller manager %w:\n%s", errExited, c.manager.Tail(4<<10))
		}
		return c.HasServiceAccount(ctx, metav1.NamespaceDefault)
	})
}

// HasServiceAccount is nil once Pods can be created in the namespace.
func (c *Cluster) HasServiceAccount(ctx context.Context, namespace string) error {
	_, err := c.Client.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
	return err
}

// Ready is nil when the API server's /readyz is green.
func (c *Cluster) Ready(ctx context.Context) error {
	if !c.apiServer.Alive() {
		return fmt.Errorf("API server %w:\n%s", errExited, c.apiServer.Tail(4<<10))
	}
	_, err := c.Get(ctx, "/readyz?verbose")
	return err
}

// Get fetches a raw path of the API server; a status other than 200 is an error
// with the body in it.
func (c *Cluster) Get(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	body, err := c.Client.Discovery().RESTClient().Get().RequestURI(path).MaxRetries(0).DoRaw(ctx)
	if status := apierrors.APIStatus(nil); errors.As(err, &status) {
		return string(body), fmt.Errorf("GET %s: %d: %s", path, status.Status().Code, body)
	}
	return string(body), err
}

// Metrics reads the API server's counters.
func (c *Cluster) Metrics(ctx context.Context) (Metrics, error) {
	text, err := c.Get(ctx, "/metrics")
	if err != nil {
		return nil, err
	}
	return parseMetrics([]byte(text))
}

// ManagerAlive says whether the controller manager still runs: it ends itself
// when it loses its Lease.
func (c *Cluster) ManagerAlive() bool { return c.manager.Alive() }

// Complaints returns the log lines since the last call that no run may have.
func (c *Cluster) Complaints() ([]string, error) {
	var pardon *regexp.Regexp
	if c.Store.Kind == Etcd {
		pardon = etcdPardon
	}
	api, errAPI := c.searched.complaints(c.apiServer.Log, apiComplaint, apiPardon)
	store, errStore := c.searched.complaints(c.Store.log, storeComplaint, pardon)
	return append(api, store...), errors.Join(errAPI, errStore)
}

// Tails returns the last n bytes of every log.
func (c *Cluster) Tails(n int64) string {
	var text string
	for _, p := range []*Process{c.Store.process, c.apiServer, c.manager} {
		if p != nil {
			text += "\n--- " + p.Log + "\n" + p.Tail(n)
		}
	}
	return text
}

// Close ends all processes, the store last, so that nobody complains about a
// missing one below.
func (c *Cluster) Close() error {
	for _, p := range []*Process{c.manager, c.apiServer} {
		if p != nil {
			p.Kill()
		}
	}
	if c.Store == nil {
		return nil
	}
	return c.Store.Close()
}

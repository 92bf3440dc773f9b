package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// nodeName is the node's name.
	nodeName = "shore"
	// heartbeat is how often it says that it lives; after 50 s of silence the
	// controller manager would give it up.
	heartbeat = 10 * time.Second
)

// node is what a cluster has beside the control plane, for one namespace: it binds
// Pods as a scheduler does, and runs them as a kubelet does, each in a sandbox with
// an address of its own. A volume is a folder that lives as long as its claim.
type node struct {
	c         *Cluster
	namespace string
	dir       string
	program   string // what every image is
	net       *podNet
	dns       *podDNS
	http      *http.Server
	complain  func(string) // hears what must not happen

	mu   sync.Mutex         // guards what follows
	pods map[types.UID]*pod // those that run, or end
	said map[string]bool    // complaints

	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// startNode registers the node and begins to run the namespace's Pods.
func startNode(ctx context.Context, c *Cluster, namespace, dir, program string, complain func(string)) (_ *node, err error) {
	n := &node{c: c, namespace: namespace, dir: dir, program: program, complain: complain, pods: map[types.UID]*pod{}, said: map[string]bool{}}
	ctx, n.cancel = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()
	if n.net, err = newPodNet(); err != nil {
		return nil, err
	}
	if n.dns, err = startPodDNS(ctx, c.Client, n.net); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	n.http = &http.Server{Handler: n.streams(), ErrorLog: quiet}
	// Owner: node; ends when close closes the server.
	n.wg.Go(func() { _ = n.http.ServeTLS(l, c.keys.path("apiserver.crt"), c.keys.path("apiserver.key")) })
	_, err = c.Client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: nodeName, Labels: map[string]string{corev1.LabelHostname: nodeName},
	}}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	beat := func(ctx context.Context) error { return n.beat(ctx, l.Addr().(*net.TCPAddr).Port) }
	if err := Until(ctx, readyDeadline, beat); err != nil { // the controller manager may write it at the same time
		return nil, err
	}
	// Owner: node; both end with close.
	n.wg.Go(func() { n.every(ctx, heartbeat, beat) })
	n.wg.Go(func() { n.every(ctx, pollInterval, n.look) })
	return n, nil
}

// report complains, once about one thing.
func (n *node) report(what string) {
	n.mu.Lock()
	said := n.said[what]
	n.said[what] = true
	n.mu.Unlock()
	if !said {
		n.complain(what)
	}
}

// every calls do again and again; an error that lasts shows in the Pods.
func (n *node) every(ctx context.Context, interval time.Duration, do func(context.Context) error) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			_ = do(ctx) // it is done again
		}
	}
}

// beat tells the API server that the node is well, and where kubectl exec gets to.
func (n *node) beat(ctx context.Context, port int) error {
	nodes := n.c.Client.CoreV1().Nodes()
	self, err := nodes.Get(ctx, nodeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	now := metav1.Now()
	self.Status.Conditions = []corev1.NodeCondition{{
		Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", LastHeartbeatTime: now, LastTransitionTime: now,
	}}
	self.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}}
	self.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(port)
	_, err = nodes.UpdateStatus(ctx, self, metav1.UpdateOptions{})
	return err
}

// look compares the namespace's Pods with those that run.
func (n *node) look(ctx context.Context) error {
	list, err := n.c.Client.CoreV1().Pods(n.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	claims, err := n.claims(ctx)
	if err != nil {
		return err
	}
	policies, err := n.c.Client.NetworkingV1().NetworkPolicies(n.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	fences := map[types.UID]string{}
	for i := range list.Items {
		p := &list.Items[i]
		if fences[p.UID], err = fence(p, policies.Items, list.Items); err != nil {
			n.report(err.Error())
			return err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	there := map[types.UID]bool{}
	for i := range list.Items {
		p := &list.Items[i]
		there[p.UID] = true
		running := n.pods[p.UID]
		if running != nil {
			script := fences[p.UID]
			running.fence.Store(&script)
		}
		switch {
		case running != nil && p.DeletionTimestamp != nil:
			running.end(time.Duration(*p.DeletionGracePeriodSeconds) * time.Second)
		case running != nil || p.DeletionTimestamp != nil && p.Spec.NodeName == "":
		case p.Spec.NodeName == "":
			if hasClaims(p, claims) {
				err = errors.Join(err, n.bind(ctx, p))
			}
		default:
			run := newPod(n, p, claims)
			n.pods[p.UID] = run
			// Owner: node; ends when the Pod is deleted, or with close.
			n.wg.Go(func() { run.run(ctx) })
		}
	}
	for uid, p := range n.pods {
		if p.ended() {
			delete(n.pods, uid)
		} else if !there[uid] {
			p.end(0) // deleted by force
		}
	}
	return err
}

// claims are the folders of the claims that are not on their way out, by name. A
// claim that is gone takes its folder along.
func (n *node) claims(ctx context.Context) (map[string]string, error) {
	list, err := n.c.Client.CoreV1().PersistentVolumeClaims(n.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	known, usable := map[string]bool{}, map[string]string{}
	for i := range list.Items {
		known[string(list.Items[i].UID)] = true
		if list.Items[i].DeletionTimestamp == nil {
			usable[list.Items[i].Name] = filepath.Join(n.volumes(), string(list.Items[i].UID))
		}
	}
	entries, err := os.ReadDir(n.volumes())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if !known[e.Name()] {
			err = errors.Join(err, os.RemoveAll(filepath.Join(n.volumes(), e.Name())))
		}
	}
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return usable, err
}

func (n *node) volumes() string { return filepath.Join(n.dir, "volumes") }

func hasClaims(p *corev1.Pod, claims map[string]string) bool {
	for _, v := range p.Spec.Volumes {
		if v.PersistentVolumeClaim != nil && claims[v.PersistentVolumeClaim.ClaimName] == "" {
			return false
		}
	}
	return true
}

// bind is the scheduler's word.
func (n *node) bind(ctx context.Context, p *corev1.Pod) error {
	err := n.c.Client.CoreV1().Pods(p.Namespace).Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: p.Namespace, UID: p.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: nodeName},
	}, metav1.CreateOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // it is gone, or was bound by the look before
	}
	return err
}

// pod is the running Pod of that name.
func (n *node) pod(name string) (*pod, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.pods {
		if p.spec.Name == name && !p.ended() {
			return p, nil
		}
	}
	return nil, fmt.Errorf("no Pod %s runs here", name)
}

// tails are the ends of the Pods' logs.
func (n *node) tails(size int64) string {
	logs, err := filepath.Glob(filepath.Join(n.dir, "*.log"))
	if err != nil {
		return err.Error()
	}
	var out strings.Builder
	for _, log := range logs {
		fmt.Fprintf(&out, "\n--- %s\n%s", filepath.Base(log), (&Process{Log: log}).Tail(size))
	}
	return out.String()
}

// close ends all Pods as a power cut would, and the node.
func (n *node) close() error {
	n.cancel()
	if n.http != nil {
		n.http.Close()
	}
	n.wg.Wait()
	if n.dns != nil {
		n.dns.close()
	}
	if n.net != nil {
		n.net.hub.close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), readyDeadline)
	defer cancel()
	err := n.c.Client.CoreV1().Nodes().Delete(ctx, nodeName, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// dialer dials Pods as a neighbour of theirs does.
func (n *node) dialer() func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		return n.net.hub.DialContext(ctx, "tcp", addr)
	}
}

package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// settled bounds what limpet and the controllers do until all is calm again.
const settled = 3 * time.Minute

// shore is a namespace whose Pods run, and a user in front of it.
type shore struct {
	*kubectl
	c         *Cluster
	ctx       context.Context
	namespace string
	node      *node
	known     map[string]member // as voters last found them
}

// newShore is skipped where Pods cannot run. With an empty namespace the story makes
// it.
func newShore(t *testing.T, namespace string) *shore {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("pods run in network namespaces, which need root")
	}
	for program, debian := range map[string]string{"ip": "iproute2", "nft": "nftables"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("there is no %s here: install the Debian package %s", program, debian)
		}
	}
	c, _ := story(t)
	ctx, cancel := context.WithTimeout(context.Background(), 4*storyDeadline)
	t.Cleanup(cancel)
	s := &shore{c: c, ctx: ctx, namespace: namespace}
	if namespace == "" {
		s.namespace = newNamespace(t, ctx, c, "shore")
	}
	s.kubectl = newKubectl(t, c, s.namespace)
	dir := filepath.Join(run.dir, "pods-"+s.namespace)
	must(t, "make a folder", os.MkdirAll(dir, 0o755))
	var err error
	s.node, err = startNode(ctx, c, s.namespace, dir, c.binaries.Limpet, func(what string) { t.Errorf("node: %s", what) })
	must(t, "start a node", err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the ends of the pods' logs:%s", s.node.tails(4<<10))
		}
		must(t, "end the node", s.node.close())
	})
	return s
}

// member is one as limpet member list has it.
type member struct {
	ID         uint64
	Name       string
	IsLearner  bool
	PeerURLs   []string
	ClientURLs []string
}

// members asks a pod.
func (s *shore) members(pod string) (map[string]member, error) {
	out, err := s.try(s.ctx, "kubectl exec "+pod+" -- limpet member list -o json "+s.access())
	if err != nil {
		return nil, err
	}
	var list []member
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	byName := map[string]member{}
	for _, m := range list {
		byName[m.Name] = m
	}
	if len(byName) != len(list) {
		return nil, fmt.Errorf("members without a name of their own: %s", out)
	}
	return byName, nil
}

// access is what commands in a pod need of where TLS is on.
func (s *shore) access() string {
	set, err := s.c.Client.AppsV1().StatefulSets(s.namespace).Get(s.ctx, "limpet", metav1.GetOptions{})
	must(s.t, "get the StatefulSet", err)
	for _, e := range set.Spec.Template.Spec.Containers[0].Env {
		if e.Name == "LIMPET_AUTO_TLS" {
			return "--data-dir /var/lib/limpet/data"
		}
	}
	return ""
}

// voters waits until the members are limpet-0 to limpet-(n-1), all with a vote and
// no others, by what pod says, and all their Pods are ready.
func (s *shore) voters(pod string, n int) map[string]member {
	s.t.Helper()
	var found map[string]member
	until(s.t, s.ctx, settled, fmt.Sprintf("%d voters", n), func(ctx context.Context) (err error) {
		if found, err = s.members(pod); err != nil {
			return err
		}
		for i := range n {
			if m, ok := found[fmt.Sprint("limpet-", i)]; !ok || m.IsLearner {
				return fmt.Errorf("limpet-%d is no voter of %v", i, found)
			}
		}
		if len(found) != n {
			return fmt.Errorf("%d members: %v", len(found), found)
		}
		pods, err := s.pods()
		for _, p := range pods {
			if !isReady(&p) {
				return fmt.Errorf("%s is not ready", p.Name)
			}
		}
		if len(pods) != n {
			return fmt.Errorf("%d Pods, want %d", len(pods), n)
		}
		return err
	})
	s.known = found
	return found
}

// outOfRaft waits until a leader has taken the members out of raft, which follows
// their removal within seconds: until then they count.
func (s *shore) outOfRaft(gone ...member) {
	s.t.Helper()
	until(s.t, s.ctx, settled, "raft without the removed members", func(context.Context) error {
		logs := s.node.tails(1 << 20)
		for _, m := range gone {
			if !strings.Contains(logs, fmt.Sprintf(`"step":"remove from raft","member":"%x"`, m.ID)) {
				return fmt.Errorf("%s, %x, is still there", m.Name, m.ID)
			}
		}
		return nil
	})
}

func (s *shore) pods() (map[string]corev1.Pod, error) {
	list, err := s.c.Client.CoreV1().Pods(s.namespace).List(s.ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	pods := map[string]corev1.Pod{}
	for _, p := range list.Items {
		pods[p.Name] = p
	}
	return pods, nil
}

func (s *shore) mustPods() map[string]corev1.Pod {
	s.t.Helper()
	pods, err := s.pods()
	must(s.t, "list Pods", err)
	return pods
}

func isReady(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// client speaks to a pod as a program in the cluster would that knows it by a name,
// with the files of the guide where TLS is on.
func (s *shore) client(pod, name string) *clientv3.Client {
	s.t.Helper()
	p := s.mustPods()[pod]
	config := clientv3.Config{
		Endpoints: []string{"http://" + p.Status.PodIP + ":2379"}, DialTimeout: 10 * time.Second,
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(s.node.dialer())},
	}
	if s.access() != "" {
		config.Endpoints = []string{"https://" + p.Status.PodIP + ":2379"}
		ca, err := os.ReadFile(filepath.Join(s.folder, "ca.crt"))
		must(s.t, "read ca.crt", err)
		app := filepath.Join(s.folder, "app.pem")
		pair, err := tls.LoadX509KeyPair(app, app)
		must(s.t, "read app.pem", err)
		config.TLS = &tls.Config{RootCAs: x509.NewCertPool(), Certificates: []tls.Certificate{pair}, ServerName: name}
		config.TLS.RootCAs.AppendCertsFromPEM(ca)
	}
	client, err := clientv3.New(config)
	must(s.t, "make a client", err)
	s.t.Cleanup(func() { _ = client.Close() })
	return client
}

// put writes at a pod, and keeps trying while the members look for a leader.
func (s *shore) put(pod, key, value string) {
	s.t.Helper()
	client := s.client(pod, pod+".limpet."+s.namespace+".svc")
	defer client.Close()
	until(s.t, s.ctx, settled, "write at "+pod, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_, err := client.Put(ctx, key, value)
		return err
	})
}

// reads wants each pod to have the key, by a read that the leader confirmed.
func (s *shore) reads(key, want string) {
	s.t.Helper()
	for pod := range s.mustPods() {
		client := s.client(pod, "limpet-client."+s.namespace+".svc")
		until(s.t, s.ctx, settled, "read at "+pod, func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			resp, err := client.Get(ctx, key)
			if err == nil && (len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != want) {
				err = fmt.Errorf("%s at %s: got %v, want %q", key, pod, resp.Kvs, want)
			}
			return err
		})
		client.Close()
	}
}

// survivesOne stops one member in its tracks: of n that still count in raft, a
// majority must be left.
func (s *shore) survivesOne(victim, other string) {
	s.t.Helper()
	p, err := s.node.pod(victim)
	must(s.t, "find "+victim, err)
	must(s.t, "freeze "+victim, p.process.Load().Freeze())
	s.put(other, "survives", victim)
	must(s.t, "thaw "+victim, p.process.Load().Thaw())
}

// goes waits until a Pod of before is another one, ready, at another address.
func (s *shore) goes(before map[string]corev1.Pod, names ...string) {
	s.t.Helper()
	until(s.t, s.ctx, settled, fmt.Sprintf("new Pods %q", names), func(context.Context) error {
		pods, err := s.pods()
		if err != nil {
			return err
		}
		for _, name := range names {
			was, is := before[name], pods[name]
			switch {
			case is.UID == was.UID || !isReady(&is):
				return fmt.Errorf("%s is the old one, or not ready", name)
			case is.Status.PodIP == was.Status.PodIP:
				return fmt.Errorf("%s still has the address %s", name, is.Status.PodIP)
			}
		}
		return nil
	})
}

// The guide, command by command, on members that run; and after each section, what
// it promises.
func TestGuide(t *testing.T) {
	s := newShore(t, "limpet")
	checks := map[string]func(*shore){
		"Apply": guideApply, "Credentials for clients": guideCredentials, "Scale up": guideScaleUp, "Scale down": guideScaleDown,
		"Restart, upgrade": guideRestart, "Replace a member": guideReplace, "A new token": guideToken, "Back out": guideBackOut,
	}
	pods := map[string]corev1.Pod{}
	for _, part := range sections(t, guide) {
		check := checks[part.title]
		if check == nil {
			t.Fatalf("nothing checks the section %q", part.title)
		}
		delete(checks, part.title)
		for i, script := range part.scripts {
			if part.title == "Back out" && i == 1 {
				s.comesBack() // before everything is taken away for good
			}
			began := time.Now()
			out := s.run(s.ctx, script)
			t.Logf("%s, %.1f s:\n%s%s", part.title, time.Since(began).Seconds(), script, out)
		}
		if part.title == "Restart, upgrade" {
			s.goes(pods, "limpet-0", "limpet-1", "limpet-2")
		}
		began := time.Now()
		check(s)
		t.Logf("%s: checked, %.1f s", part.title, time.Since(began).Seconds())
		pods = s.mustPods()
	}
	if len(checks) > 0 {
		t.Errorf("the guide lacks the sections %v", checks)
	}
}

func guideApply(s *shore) {
	for name, m := range s.voters("limpet-0", 3) {
		if want := "https://" + name + ".limpet.limpet.svc:2380"; !slices.Equal(m.PeerURLs, []string{want}) {
			s.t.Errorf("%s is known at %v, want %s", name, m.PeerURLs, want)
		}
	}
	until(s.t, s.ctx, settled, "a budget for one Pod", func(ctx context.Context) error {
		budget, err := s.c.Client.PolicyV1().PodDisruptionBudgets(s.namespace).Get(ctx, "limpet", metav1.GetOptions{})
		if err == nil && budget.Status.DisruptionsAllowed != 1 {
			err = fmt.Errorf("%d may be disrupted", budget.Status.DisruptionsAllowed)
		}
		return err
	})
	until(s.t, s.ctx, settled, "the ready Pods behind limpet-client", func(ctx context.Context) error {
		ready := 0
		slices, err := s.c.Client.DiscoveryV1().EndpointSlices(s.namespace).List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=limpet-client"})
		if err != nil {
			return err
		}
		for _, slice := range slices.Items {
			for _, e := range slice.Endpoints {
				if e.Conditions.Ready != nil && *e.Conditions.Ready {
					ready++
				}
			}
		}
		if ready != 3 {
			return fmt.Errorf("%d", ready)
		}
		return nil
	})
}

func guideCredentials(s *shore) {
	s.reads("greeting", "hello")
	p := s.mustPods()["limpet-0"]
	stranger, err := clientv3.New(clientv3.Config{
		Endpoints: []string{"https://" + p.Status.PodIP + ":2379"}, TLS: &tls.Config{InsecureSkipVerify: true},
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(s.node.dialer())},
	})
	must(s.t, "make a client", err)
	defer stranger.Close()
	ctx, cancel := context.WithTimeout(s.ctx, 5*time.Second)
	defer cancel()
	if _, err := stranger.Get(ctx, "greeting"); err == nil {
		s.t.Error("who shows no certificate may read")
	}
	// Who is no member and no client gets to the metrics, by the policy, and no further.
	elsewhere, _, err := s.node.net.plug()
	must(s.t, "make a stranger", err)
	defer elsewhere.close()
	for port, open := range map[int]bool{2379: false, 2380: false, 2381: true, 2382: false} {
		ctx, cancel := context.WithTimeout(s.ctx, 2*time.Second)
		conn, err := elsewhere.DialContext(ctx, "tcp", fmt.Sprintf("%s:%d", p.Status.PodIP, port))
		cancel()
		if err == nil {
			conn.Close()
		}
		if (err == nil) != open {
			s.t.Errorf("a stranger at port %d: %v, want that it is open: %v", port, err, open)
		}
	}
	// A Pod that is deleted comes back at another address and is the same member.
	before, pods := s.voters("limpet-0", 3), s.mustPods()
	s.run(s.ctx, "kubectl delete pod limpet-1")
	s.put("limpet-0", "meanwhile", "one was away")
	s.goes(pods, "limpet-1")
	if after := s.voters("limpet-1", 3); after["limpet-1"].ID != before["limpet-1"].ID {
		s.t.Errorf("limpet-1 was member %x and is %x", before["limpet-1"].ID, after["limpet-1"].ID)
	}
	s.reads("meanwhile", "one was away")
	// So do all, at the same time.
	pods = s.mustPods()
	s.run(s.ctx, "kubectl delete pod limpet-0 limpet-1 limpet-2")
	s.goes(pods, "limpet-0", "limpet-1", "limpet-2")
	s.voters("limpet-2", 3)
	s.reads("meanwhile", "one was away")
}

func guideScaleUp(s *shore) {
	s.voters("limpet-4", 5)
	s.reads("greeting", "hello")
}

func guideScaleDown(s *shore) {
	five := s.known
	s.voters("limpet-0", 3)
	s.outOfRaft(five["limpet-3"], five["limpet-4"])
	s.survivesOne("limpet-2", "limpet-0")
	claims, err := s.c.Client.CoreV1().PersistentVolumeClaims(s.namespace).List(s.ctx, metav1.ListOptions{})
	must(s.t, "list claims", err)
	if len(claims.Items) != 3 {
		s.t.Errorf("%d claims are left, want 3", len(claims.Items))
	}
	// The numbers may be used again.
	s.scale(5)
	before := s.voters("limpet-0", 5)
	// Who forgets to remove the members first has lost nothing.
	s.scale(3)
	s.put("limpet-0", "forgotten", "but not lost")
	if members, err := s.members("limpet-0"); err != nil || len(members) != 5 {
		s.t.Errorf("members after Pods went: %v, %v, want that all five still count", members, err)
	}
	s.scale(5)
	after := s.voters("limpet-0", 5)
	if after["limpet-4"].ID != before["limpet-4"].ID {
		s.t.Errorf("limpet-4 was member %x and came back as %x", before["limpet-4"].ID, after["limpet-4"].ID)
	}
	// Too few for a leader: nothing can be removed, and scaling up heals it.
	s.scale(2)
	if out, err := s.try(s.ctx, "kubectl exec limpet-0 -- limpet member remove "+s.access()+" --timeout 3s limpet-4"); err == nil {
		s.t.Errorf("two of five removed a member: %s", out)
	}
	s.scale(3)
	s.put("limpet-0", "forgotten", "again")
	for _, name := range []string{"limpet-4", "limpet-3"} {
		s.run(s.ctx, "kubectl exec limpet-0 -- limpet member remove "+s.access()+" "+name)
	}
	s.voters("limpet-0", 3)
	s.outOfRaft(after["limpet-3"], after["limpet-4"])
	s.survivesOne("limpet-1", "limpet-2")
	s.reads("forgotten", "again")
	s.run(s.ctx, "kubectl delete pvc data-limpet-4 data-limpet-3")
}

// scale waits until there are so many Pods, and so many ready if they can be.
func (s *shore) scale(n int) {
	s.t.Helper()
	s.run(s.ctx, fmt.Sprintf("kubectl scale statefulset/limpet --replicas=%d", n))
	until(s.t, s.ctx, settled, fmt.Sprintf("%d Pods", n), func(ctx context.Context) error {
		return podsNumber(ctx, s.c, s.namespace, "app.kubernetes.io/name=limpet", n)
	})
}

func guideRestart(s *shore) {
	s.voters("limpet-0", 3)
	for name, p := range s.mustPods() {
		if p.Spec.Containers[0].Image != "registry.example/limpet:v2" {
			s.t.Errorf("%s has the image %s", name, p.Spec.Containers[0].Image)
		}
	}
	s.reads("forgotten", "again")
}

func guideReplace(s *shore) {
	old := s.known["limpet-1"]
	if now := s.voters("limpet-1", 3); now["limpet-1"].ID == old.ID {
		s.t.Errorf("limpet-1 lost its volume and is still member %x", old.ID)
	}
	s.outOfRaft(old)
	s.survivesOne("limpet-2", "limpet-1")
	s.reads("survives", "limpet-2")
}

func guideToken(s *shore) {
	s.voters("limpet-0", 3)
	// Who comes from now on comes with the new token.
	before := s.mustPods()
	s.run(s.ctx, "kubectl delete pvc data-limpet-2 --wait=false; kubectl delete pod limpet-2")
	s.goes(before, "limpet-2")
	s.voters("limpet-2", 3)
	was, err := os.ReadFile(filepath.Join(s.folder, "ca.crt"))
	must(s.t, "read ca.crt", err)
	s.credentials()
	if is, err := os.ReadFile(filepath.Join(s.folder, "ca.crt")); err != nil || string(is) == string(was) {
		s.t.Errorf("the authority is the old one, %v", err)
	}
	s.reads("greeting", "hello")
}

// credentials makes those of the guide anew.
func (s *shore) credentials() {
	s.t.Helper()
	s.run(s.ctx, "kubectl exec limpet-0 -- limpet cert ca >ca.crt; kubectl exec limpet-0 -- limpet cert client --cn app --out - >app.pem")
}

// comesBack applies what was deleted.
func (s *shore) comesBack() {
	s.t.Helper()
	until(s.t, s.ctx, settled, "no Pods", func(ctx context.Context) error {
		return podsNumber(ctx, s.c, s.namespace, "app.kubernetes.io/name=limpet", 0)
	})
	s.run(s.ctx, "kubectl apply --server-side -k deploy/kubernetes/overlays/tls; kubectl rollout status statefulset/limpet --timeout=5m")
	s.voters("limpet-0", 3)
	s.reads("greeting", "hello")
	s.run(s.ctx, "kubectl delete -k deploy/kubernetes/overlays/tls")
}

func guideBackOut(s *shore) {
	until(s.t, s.ctx, settled, "nothing left", func(ctx context.Context) error {
		_, err := s.c.Client.CoreV1().Namespaces().Get(ctx, s.namespace, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("the namespace is there"), err)
	})
	volumes, err := os.ReadDir(s.node.volumes())
	must(s.t, "list volumes", err)
	if len(volumes) > 0 {
		s.t.Errorf("%d volumes are left", len(volumes))
	}
}

// One member becomes three, and three five, by applying one overlay over the other.
func TestOverlaysGrow(t *testing.T) {
	s := newShore(t, "")
	restrict(t, s.ctx, s.kubectl, s.namespace)
	s.run(s.ctx, `kubectl create secret generic limpet-token --from-literal=token=`+strings.Repeat("0123456789abcdef", 2))
	apply := func(folder string, n int) {
		s.run(s.ctx, "kubectl apply --server-side -k deploy/kubernetes/"+folder+"; kubectl rollout status statefulset/limpet --timeout=5m")
		s.voters("limpet-0", n)
	}
	apply("overlays/single", 1)
	s.put("limpet-0", "alone", "yes")
	apply("base", 3)
	s.reads("alone", "yes")
	apply("overlays/five", 5)
	s.reads("alone", "yes")
}

//go:build linux

// Package launch answers: does limpet start with what others have written for etcd? Command lines,
// environments and files are taken from testdata as they are; see the README there.
package launch

import (
	"fmt"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"limpet/e2e/hosts"
	"limpet/e2e/pki"
)

// agree writes at one member and reads at each.
func agree(t *testing.T, members []*container) {
	t.Helper()
	for i, m := range members {
		m.ready()
		key := fmt.Sprint("k", i)
		m.etcdctl("--endpoints=http://"+m.host.Addr(2379), "put", key, "v")
		for _, other := range members[:i+1] {
			if got := other.etcdctl("--endpoints=http://"+other.host.Addr(2379), "get", "--print-value-only", key); got != "v" {
				t.Errorf("%s written at %s: %s reads %q", key, m.Name, other.Name, got)
			}
		}
	}
	if got := members[0].etcdctl("--endpoints=http://"+members[0].host.Addr(2379), "member", "list"); strings.Count(got, "started") != len(members) {
		t.Errorf("members: got\n%s\nwant %d that have started", got, len(members))
	}
}

// The pods of the StatefulSet in etcd's documentation. Their names are known once they are there;
// the Service is named etcd, for which Kubernetes makes variables.
func TestStatefulSet(t *testing.T) {
	n := hosts.New(t, 3)
	var set object
	for _, o := range objects(t, "statefulset.yaml") {
		if o.Kind == "StatefulSet" {
			set = o
		}
	}
	pod := set.Spec.Template.Spec.Containers[0]
	names, members := map[string]*hosts.Host{}, []*container(nil)
	for i, h := range n.Hosts() {
		of := metadata{Name: fmt.Sprint("etcd-", i), Namespace: set.Metadata.Namespace, Labels: set.Spec.Template.Metadata.Labels}
		argv, env := pod.expand(of)
		m := newContainer(t, of.Name, h, append(env,
			"ETCD_SERVICE_HOST=10.96.0.17", "ETCD_SERVICE_PORT=2379", "ETCD_PORT=tcp://10.96.0.17:2379",
			"ETCD_PORT_2379_TCP=tcp://10.96.0.17:2379", "ETCD_PORT_2379_TCP_ADDR=10.96.0.17")...)
		m.write("data/lost+found/.keep", "", 0o600)
		m.run(argv...)
		names[of.Name+".etcd"], members = h, append(members, m)
	}
	for _, m := range members {
		m.names(names)
	}
	agree(t, members)
	for _, m := range members {
		m.idle()
		for _, url := range pod.probes(m.host.IP().String()) {
			m.probe(url)
		}
	}
}

// The pods of etcd's hack/kubernetes-deploy, whose flags and values are apart.
func TestKubernetesDeploy(t *testing.T) {
	n := hosts.New(t, 3)
	names, members := map[string]*hosts.Host{}, []*container(nil)
	for i, o := range objects(t, "kubernetes-deploy.yaml") {
		names[o.Metadata.Name] = n.Hosts()[i]
	}
	for i, o := range objects(t, "kubernetes-deploy.yaml") {
		argv, env := o.Spec.Containers[0].expand(o.Metadata)
		m := newContainer(t, o.Metadata.Name, n.Hosts()[i], env...)
		m.names(names)
		m.run(argv...)
		members = append(members, m)
	}
	agree(t, members)
}

// The static pod of kubeadm, now and up to 1.33.
func TestKubeadm(t *testing.T) {
	for file, idle := range map[string]string{"kubeadm.yaml": "feature-gates", "kubeadm-1.33.yaml": "experimental-initial-corrupt-check"} {
		t.Run(file, func(t *testing.T) {
			n := hosts.New(t, 1)
			pod := objects(t, file)[0]
			c := &pod.Spec.Containers[0]
			argv, env := c.expand(pod.Metadata)
			m := newContainer(t, "etcd", n.Host(1), env...)
			ca := pki.New(t, "etcd-ca")
			m.certify(ca, "etc/kubernetes/pki/etcd", "ca", "server", "peer")
			m.run(argv...)
			m.ready()
			m.idle(idle)
			for _, url := range c.probes(m.host.IP().String()) {
				m.probe(url)
			}
			client := ca.Issue(pki.Leaf{CN: "kube-apiserver-etcd-client", Usages: pki.Client})
			flags := []string{"--endpoints=https://" + m.host.Addr(2379), "--cacert=" + ca.File, "--cert=" + client.CertFile, "--key=" + client.KeyFile}
			m.etcdctl(append(flags, "put", "a", "1")...)
			if got := m.etcdctl(append(flags, "get", "--print-value-only", "a")...); got != "1" {
				t.Errorf("get: got %q, want 1", got)
			}
		})
	}
}

// Three containers that have nothing but bitnami's environment.
func TestBitnami(t *testing.T) {
	n := hosts.New(t, 3)
	var compose struct {
		Services map[string]struct{ Environment []string }
	}
	if err := yaml.Unmarshal([]byte(read(t, "bitnami.yaml")), &compose); err != nil {
		t.Fatal(err)
	}
	names, members := map[string]*hosts.Host{}, []*container(nil)
	for i := range 3 {
		names[fmt.Sprint("etcd", i+1)] = n.Hosts()[i]
	}
	for name, h := range names {
		m := newContainer(t, name, h, compose.Services[name].Environment...)
		m.names(names)
		m.run("etcd")
		members = append(members, m)
	}
	agree(t, members)
	for _, m := range members {
		m.idle()
	}
}

// etcd's sample of a configuration file, with every key that it has.
func TestSampleFile(t *testing.T) {
	m := newContainer(t, "etcd", hosts.New(t, 1).Host(1))
	m.write("etc/etcd/etcd.conf.yml", read(t, "etcd.conf.yml"), 0o644)
	m.run("etcd", "--config-file", "/etc/etcd/etcd.conf.yml")
	m.ready()
	m.idle("max-snapshots", "max-wals", "discovery-fallback", "proxy", "proxy-failure-wait", "proxy-refresh-interval",
		"proxy-dial-timeout", "proxy-write-timeout", "proxy-read-timeout", "self-signed-cert-validity", "logger")
	m.etcdctl("--endpoints=http://127.0.0.1:2379", "put", "a", "1")
}

// The file with which k3s starts its etcd, and once more for cluster-reset.
func TestK3sFile(t *testing.T) {
	m := newContainer(t, "etcd", hosts.New(t, 1).Host(1))
	const folder = "var/lib/rancher/k3s/server/tls/etcd"
	ca := pki.New(t, "etcd-ca")
	m.certify(ca, folder, "server-ca", "server-client")
	m.certify(ca, folder, "peer-ca", "peer-server-client")
	file := read(t, "k3s.yml")
	m.write("var/lib/rancher/k3s/server/db/etcd.yml", file, 0o600)
	start := func() {
		m.run("etcd", "--config-file=/var/lib/rancher/k3s/server/db/etcd.yml")
		m.ready()
		m.probe("http://127.0.0.1:2381/health")
	}
	start()
	m.idle("experimental-initial-corrupt-check", "logger")
	m.Kill()
	m.write("var/lib/rancher/k3s/server/db/etcd.yml", file+"force-new-cluster: true\n", 0o600)
	start()
}

// The units of etcd and of Debian are told when the member is ready, and when it stops.
func TestUnits(t *testing.T) {
	for file, idle := range map[string][]string{"etcd.service": nil, "debian.service": {"max-snapshots", "max-wals", "proxy"}} {
		t.Run(file, func(t *testing.T) {
			argv, env := unit(t, file, "debian.default")
			m := newContainer(t, "etcd", hosts.New(t, 1).Host(1), env...)
			systemd := m.notified()
			m.run(argv...)
			m.hears(systemd, "READY=1")
			m.ready()
			m.idle(idle...)
			m.etcdctl("--endpoints=http://127.0.0.1:2379", "put", "a", "1")
			if exit := m.Terminate(patience); exit.Code != 0 {
				t.Errorf("stopping: exit code %d, want 0", exit.Code)
			}
			m.hears(systemd, "STOPPING=1")
		})
	}
}

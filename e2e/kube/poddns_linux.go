package kube

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"golang.org/x/net/dns/dnsmessage"
)

// clusterDomain ends the names of Services.
const clusterDomain = "cluster.local"

// podDNS answers pods as CoreDNS does: from the Services and EndpointSlices that
// the API server has at that moment.
type podDNS struct {
	client kubernetes.Interface
	conn   net.PacketConn
	done   chan struct{} // closed when it answers no more
}

// startPodDNS answers at the hub.
func startPodDNS(ctx context.Context, client kubernetes.Interface, n *podNet) (*podDNS, error) {
	d := &podDNS{client: client, done: make(chan struct{})}
	err := n.hub.do(func() (err error) {
		d.conn, err = net.ListenPacket("udp", netip.AddrPortFrom(hubIP, 53).String())
		return err
	})
	if err != nil {
		return nil, err
	}
	// Owner: podDNS; ends when close closes the socket.
	go func() {
		defer close(d.done)
		buf := make([]byte, 512)
		for {
			size, from, err := d.conn.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue // of a pod that is gone
			}
			if answer := d.answer(ctx, buf[:size]); answer != nil {
				_, _ = d.conn.WriteTo(answer, from) // who got no answer asks again
			}
		}
	}()
	return d, nil
}

func (d *podDNS) close() {
	d.conn.Close()
	<-d.done
}

// answer is nil for what is no question.
func (d *podDNS) answer(ctx context.Context, packet []byte) []byte {
	var q dnsmessage.Message
	if err := q.Unpack(packet); err != nil || len(q.Questions) != 1 {
		return nil
	}
	a := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: q.ID, Response: true, Authoritative: true, RecursionDesired: q.RecursionDesired},
		Questions: q.Questions,
	}
	ips, err := d.lookup(ctx, strings.TrimSuffix(strings.ToLower(q.Questions[0].Name.String()), "."))
	switch {
	case err != nil:
		a.RCode = dnsmessage.RCodeServerFailure
	case len(ips) == 0:
		a.RCode = dnsmessage.RCodeNameError
	case q.Questions[0].Type == dnsmessage.TypeA: // there are no others
		for _, ip := range ips {
			a.Answers = append(a.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: 5},
				Body:   &dnsmessage.AResource{A: ip.As4()},
			})
		}
	}
	packed, err := a.Pack()
	if err != nil {
		return nil
	}
	return packed
}

// lookup knows SERVICE.NAMESPACE.svc and, of a Service without an address of its
// own, POD.SERVICE.NAMESPACE.svc.
func (d *podDNS) lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	name, ok := strings.CutSuffix(name, ".svc."+clusterDomain)
	labels := strings.Split(name, ".")
	if !ok || len(labels) < 2 || len(labels) > 3 {
		return nil, nil
	}
	pod, name, namespace := "", labels[len(labels)-2], labels[len(labels)-1]
	if len(labels) == 3 {
		pod = labels[0]
	}
	service, err := d.client.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, err
	case service.Spec.ClusterIP != corev1.ClusterIPNone && pod == "":
		ip, err := netip.ParseAddr(service.Spec.ClusterIP)
		return []netip.Addr{ip}, err
	}
	slices, err := d.client.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + name})
	if err != nil {
		return nil, err
	}
	var ips []netip.Addr
	for _, s := range slices.Items {
		for _, e := range s.Endpoints {
			if e.Conditions.Ready != nil && !*e.Conditions.Ready || pod != "" && (e.Hostname == nil || *e.Hostname != pod) {
				continue
			}
			for _, text := range e.Addresses {
				ip, err := netip.ParseAddr(text)
				if err != nil {
					return nil, err
				}
				ips = append(ips, ip)
			}
		}
	}
	return ips, nil
}

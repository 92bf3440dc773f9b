package kube

import (
	"fmt"
	"net/netip"
	"sync"
)

// podNet is where pods are: a bridge in a namespace of its own, the hub, which is
// also the node that probes them and the DNS that they ask. The machine's own
// network is not touched.
type podNet struct {
	hub netns

	mu   sync.Mutex // guards next
	next netip.Addr // of the next pod: each gets an address that none had before
}

// hubIP is the hub's address.
var hubIP = netip.MustParseAddr("10.88.0.1")

func newPodNet() (*podNet, error) {
	hub, err := newNetns()
	if err != nil {
		return nil, err
	}
	n := &podNet{hub: hub, next: netip.MustParseAddr("10.88.0.10")}
	return n, hub.ip("link set lo up",
		"link add br0 type bridge forward_delay 0 mcast_snooping 0",
		fmt.Sprintf("addr add %s/16 dev br0", hubIP), "link set br0 up")
}

// plug makes a pod's namespace, with an address.
func (n *podNet) plug() (netns, netip.Addr, error) {
	n.mu.Lock()
	ip := n.next
	n.next = ip.Next()
	n.mu.Unlock()
	pod, err := newNetns()
	if err != nil {
		return pod, ip, err
	}
	b := ip.As4()
	port := fmt.Sprintf("pod%d-%d", b[2], b[3])
	if err := n.hub.ip(
		fmt.Sprintf("link add %s type veth peer name eth0 netns %s", port, pod.path()),
		fmt.Sprintf("link set %s master br0", port), fmt.Sprintf("link set %s up", port)); err != nil {
		return pod, ip, err
	}
	return pod, ip, pod.ip("link set lo up", "link set eth0 up",
		fmt.Sprintf("addr add %s/16 dev eth0", ip), fmt.Sprintf("route add default via %s", hubIP))
}

package kube

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// fence is what a network plugin makes of the NetworkPolicies for a Pod: rules of nft
// for its namespace, in which the node always gets through. It knows podSelectors,
// the namespaceSelector for all, and ports by number; another policy is an error,
// as it must not seem to be kept.
func fence(p *corev1.Pod, policies []networkingv1.NetworkPolicy, pods []corev1.Pod) (string, error) {
	var in, out []string
	closedIn, closedOut := false, false
	for _, policy := range policies {
		mine, err := metav1.LabelSelectorAsSelector(&policy.Spec.PodSelector)
		if err != nil {
			return "", err
		}
		if !mine.Matches(labels.Set(p.Labels)) {
			continue
		}
		closedIn = closedIn || slices.Contains(policy.Spec.PolicyTypes, networkingv1.PolicyTypeIngress)
		closedOut = closedOut || slices.Contains(policy.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		for _, r := range policy.Spec.Ingress {
			rules, err := fenceRules("ip saddr", r.From, r.Ports, pods)
			if err != nil {
				return "", fmt.Errorf("policy %s: %w", policy.Name, err)
			}
			in = append(in, rules...)
		}
		for _, r := range policy.Spec.Egress {
			rules, err := fenceRules("ip daddr", r.To, r.Ports, pods)
			if err != nil {
				return "", fmt.Errorf("policy %s: %w", policy.Name, err)
			}
			out = append(out, rules...)
		}
	}
	// Emptied and filled in one step.
	script := "table inet fence\ndelete table inet fence\ntable inet fence {\n"
	for _, c := range []struct {
		closed             bool
		hook, loop, anyway string
		rules              []string
	}{
		{closedIn, "input", "iif", fmt.Sprintf("ip saddr %s accept", hubIP), in},
		{closedOut, "output", "oif", "", out},
	} {
		if c.closed {
			script += fmt.Sprintf("chain %s { type filter hook %s priority 0; policy drop\n%s lo accept\nct state established,related accept\n%s\n%s\n}\n",
				c.hook, c.hook, c.loop, c.anyway, strings.Join(c.rules, "\n"))
		}
	}
	return script + "}\n", nil
}

// fenceRules lets through what one rule of a policy does.
func fenceRules(side string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort, pods []corev1.Pod) ([]string, error) {
	var ips []string
	all := len(peers) == 0
	for _, peer := range peers {
		switch {
		case peer.IPBlock == nil && peer.PodSelector == nil && len(peer.NamespaceSelector.MatchLabels)+len(peer.NamespaceSelector.MatchExpressions) == 0:
			all = true
		case peer.IPBlock == nil && peer.NamespaceSelector == nil:
			selector, err := metav1.LabelSelectorAsSelector(peer.PodSelector)
			if err != nil {
				return nil, err
			}
			for _, p := range pods {
				if p.Status.PodIP != "" && selector.Matches(labels.Set(p.Labels)) {
					ips = append(ips, p.Status.PodIP)
				}
			}
		default:
			return nil, errors.New("this node does not know such peers")
		}
	}
	from := ""
	switch {
	case all:
	case len(ips) == 0:
		return nil, nil
	default:
		slices.Sort(ips)
		from = fmt.Sprintf("%s { %s } ", side, strings.Join(slices.Compact(ips), ", "))
	}
	var rules []string
	for _, port := range ports {
		if port.Port == nil || port.Port.IntValue() == 0 || port.EndPort != nil {
			return nil, errors.New("this node only knows ports by number")
		}
		protocol := "tcp"
		if port.Protocol != nil && *port.Protocol == corev1.ProtocolUDP {
			protocol = "udp"
		}
		rules = append(rules, fmt.Sprintf("%s%s dport %d accept", from, protocol, port.Port.IntValue()))
	}
	return rules, nil
}

// nft runs a script of nftables inside.
func (n netns) nft(script string) error {
	return n.do(func() error {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("nft: %w\n%s%s", err, out, script)
		}
		return nil
	})
}

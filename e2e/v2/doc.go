// Package v2 asks one question: can a client of etcd's v2 API tell limpet from etcd?
//
// It holds tests only. They run etcd 3.5, the last release with that API, beside limpet and send both
// the same requests in the same order. As package side does, they compare every answer in neutral
// names. Both begin at the same v2 index (see level), so that indexes must be equal from then on, and
// with them the names of in-order keys.
//
//   - rows: every request of the documentation, one after the other, and what is wrong with requests;
//   - random: generated requests over few paths, with watchers among them;
//   - watch, expire: what arrives later than it was asked for;
//   - members, stats, users: the rest of /v2;
//   - ctl: etcdctl with ETCDCTL_API=2, on three members, whole and broken;
//   - tutorial: the walk of a classic tutorial on three members of limpet.
//
// Set E2E_SUBJECT=etcd to put a second etcd 3.5 in limpet's place. That run judges the tests: it must
// not find one difference.
package v2

// Package trust answers: what follows from the cluster's token?
//
// The token is the one secret that members share. From it come, the same on
// every member and with nothing handed around:
//
//   - the keys of gossip and of the LAN beacon;
//   - the cluster's certificate authority: a deterministic Ed25519 key and a
//     certificate of fixed fields, valid at any plausible clock;
//   - TLS between members, in which each shows a certificate of that authority
//     that names it as a member. A certificate of the same authority for
//     anything else is no member's;
//   - certificates of that authority for servers and clients.
//
// While a token is replaced by another one, members hold both in a Keyring.
// Authority and keys of the new one are shown then; the old authority vouches
// for the new, so that who knows only one of them trusts both.
//
// It knows no files and no network.
package trust

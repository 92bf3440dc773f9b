// Package certs answers: which certificates does a listener show, and whom does
// it accept?
//
// A Guard shows a certificate, from files or issued by the cluster's authority,
// and judges those that are shown to it: by a bundle of authorities, a
// revocation list, common names, and host names. It does what etcd's
// client/pkg/v3/transport does, as far as the other side can see, with these
// differences:
//
//   - Files are read again when they have changed; what cannot be read leaves the
//     last good content in force, and is logged once.
//   - Between members each end shows a certificate and judges the other's, and a
//     certificate that may not be used for both ends makes no member.
//   - A revocation list may be PEM, too.
//
// It knows no flags, no token and no listeners.
package certs

// Package systemd answers: how does a service manager run a member, and how does
// it hear how the member is? It speaks sd_notify(3) and has the files by which
// systemd and OpenRC run limpet.
//
// Whether a member makes progress is the member's to say; this package passes it on.
package systemd

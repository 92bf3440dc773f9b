package certs

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
)

// Limits are the versions and cipher suites that both ends of TLS keep to.
type Limits struct {
	Min, Max uint16   // as crypto/tls numbers them; Max 0: the newest
	Ciphers  []uint16 // of TLS 1.2; empty: Go's
}

// oldCipherNames are names that etcd knows beside those of crypto/tls.
var oldCipherNames = map[string]uint16{
	"TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305":   tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	"TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305": tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
}

// ParseLimits reads versions, TLS1.2 or TLS1.3, and names of cipher suites; an
// empty version is the default, 1.2 and the newest. Its errors are etcd's
// (embed.Config.Validate, tlsutil).
func ParseLimits(oldest, newest string, ciphers []string) (l Limits, err error) {
	if l.Min, err = version(oldest); err != nil {
		return l, err
	}
	if l.Max, err = version(newest); err != nil {
		return l, err
	}
	if l.Max != 0 && l.Min > l.Max {
		return l, fmt.Errorf("min version (%s) is greater than max version (%s)", oldest, newest)
	}
	if l.Min == tls.VersionTLS13 && len(ciphers) > 0 {
		return l, errors.New("cipher suites cannot be configured when only TLS1.3 is enabled")
	}
	if l.Min == 0 {
		l.Min = tls.VersionTLS12
	}
	for _, name := range ciphers {
		id, ok := cipher(name)
		if !ok {
			return l, fmt.Errorf("unexpected TLS cipher suite %q", name)
		}
		l.Ciphers = append(l.Ciphers, id)
	}
	return l, nil
}

func version(name string) (uint16, error) {
	switch name {
	case "":
		return 0, nil
	case "TLS1.2":
		return tls.VersionTLS12, nil
	case "TLS1.3":
		return tls.VersionTLS13, nil
	}
	return 0, fmt.Errorf("unexpected TLS version %q (must be one of: TLS1.2, TLS1.3)", name)
}

func cipher(name string) (uint16, bool) {
	for _, c := range slices.Concat(tls.CipherSuites(), tls.InsecureCipherSuites()) {
		if c.Name == name {
			return c.ID, true
		}
	}
	id, ok := oldCipherNames[name]
	return id, ok
}

package certs

import (
	"crypto/tls"
	"reflect"
	"testing"
)

func TestParseLimits(t *testing.T) {
	for _, c := range []struct {
		oldest, newest string
		ciphers        []string
		want           Limits
		err            string
	}{
		{"", "", nil, Limits{Min: tls.VersionTLS12}, ""},
		{"TLS1.2", "TLS1.3", nil, Limits{Min: tls.VersionTLS12, Max: tls.VersionTLS13}, ""},
		{"TLS1.3", "", nil, Limits{Min: tls.VersionTLS13}, ""},
		{"TLS1.1", "", nil, Limits{}, `unexpected TLS version "TLS1.1" (must be one of: TLS1.2, TLS1.3)`},
		{"", "1.3", nil, Limits{}, `unexpected TLS version "1.3" (must be one of: TLS1.2, TLS1.3)`},
		{"TLS1.3", "TLS1.2", nil, Limits{}, "min version (TLS1.3) is greater than max version (TLS1.2)"},
		{"TLS1.3", "", []string{"TLS_AES_128_GCM_SHA256"}, Limits{}, "cipher suites cannot be configured when only TLS1.3 is enabled"},
		{
			"", "", []string{"TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "TLS_RSA_WITH_AES_128_CBC_SHA"},
			Limits{Min: tls.VersionTLS12, Ciphers: []uint16{tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_RSA_WITH_AES_128_CBC_SHA}}, "",
		},
		{"", "", []string{"ROT13"}, Limits{}, `unexpected TLS cipher suite "ROT13"`},
	} {
		got, err := ParseLimits(c.oldest, c.newest, c.ciphers)
		switch {
		case c.err != "" && (err == nil || err.Error() != c.err):
			t.Errorf("%+v: got %v", c, err)
		case c.err == "" && (err != nil || !reflect.DeepEqual(got, c.want)):
			t.Errorf("%+v: got %+v, %v", c, got, err)
		}
	}
}

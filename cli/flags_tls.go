package cli

import "limpet/server"

// tlsSettings lists the flags of TLS, all but one etcd's.
func tlsSettings() []setting {
	type C = server.Config
	return []setting{
		text("cert-file", catTLS, "certificate shown to clients, PEM; read again when it changes, as all files of TLS", func(c *C) *string { return &c.ClientTLS.Cert }),
		text("key-file", catTLS, "key of --cert-file", func(c *C) *string { return &c.ClientTLS.Key }),
		boolean("auto-tls", catTLS, "show clients a certificate that is issued by the cluster's authority, which follows from the token, or without one by an authority of this member's own (limpet cert ca prints it)", func(c *C) *bool { return &c.AutoTLS }),
		boolean("client-cert-auth", catTLS, "have clients show a certificate: of --trusted-ca-file, else with --auto-tls of the cluster's authority, else of the system's", func(c *C) *bool { return &c.ClientTLS.ClientAuth }),
		text("trusted-ca-file", catTLS, "authorities of clients; implies --client-cert-auth", func(c *C) *string { return &c.ClientTLS.TrustedCA }),
		text("client-crl-file", catTLS, "list of revoked certificates of clients, DER or PEM", func(c *C) *string { return &c.ClientTLS.CRL }),
		urls("client-cert-allowed-hostname", catTLS, "host names, one of which a client's certificate must have", func(c *C) *[]string { return &c.ClientTLS.AllowedHostnames }),
		urls("client-cert-allowed-cn", catTLS, "common names, one of which a client's certificate must have; etcd has this in its configuration file only", func(c *C) *[]string { return &c.ClientTLS.AllowedCNs }),
		text("peer-cert-file", catTLS, "certificate shown to other members, PEM; for https peer URLs. It must allow server and client authentication", func(c *C) *string { return &c.PeerTLS.Cert }),
		text("peer-key-file", catTLS, "key of --peer-cert-file", func(c *C) *string { return &c.PeerTLS.Key }),
		text("peer-client-cert-file", catTLS, "certificate shown when this member calls another (default: --peer-cert-file)", func(c *C) *string { return &c.PeerTLS.CallerCert }),
		text("peer-client-key-file", catTLS, "key of --peer-client-cert-file", func(c *C) *string { return &c.PeerTLS.CallerKey }),
		boolean("peer-client-cert-auth", catTLS, "members always show each other certificates, whatever is given here", func(c *C) *bool { return &c.PeerTLS.ClientAuth }),
		text("peer-trusted-ca-file", catTLS, "authorities of members (default: the system's)", func(c *C) *string { return &c.PeerTLS.TrustedCA }),
		text("peer-crl-file", catTLS, "list of revoked certificates of members, DER or PEM", func(c *C) *string { return &c.PeerTLS.CRL }),
		urls("peer-cert-allowed-cn", catTLS, "common names, one of which a member's certificate must have", func(c *C) *[]string { return &c.PeerTLS.AllowedCNs }),
		urls("peer-cert-allowed-hostname", catTLS, "host names, one of which a member's certificate must have", func(c *C) *[]string { return &c.PeerTLS.AllowedHostnames }),
		boolean("peer-skip-client-san-verification", catTLS, "let members call from addresses that their certificates do not name", func(c *C) *bool { return &c.PeerTLS.SkipCallerSAN }),
		boolean("peer-auto-tls", catTLS, "certificates between members made of the token, as they are anyway where there is one", func(c *C) *bool { return &c.PeerAutoTLS }),
		text("tls-min-version", catTLS, "oldest version for clients, and for members with given certificates: TLS1.2 or TLS1.3", func(c *C) *string { return &c.TLSMinVersion }),
		text("tls-max-version", catTLS, "newest version: TLS1.2 or TLS1.3 (default: the newest there is)", func(c *C) *string { return &c.TLSMaxVersion }),
		urls("cipher-suites", catTLS, "cipher suites of TLS 1.2, by the names of the standard (default: Go's)", func(c *C) *[]string { return &c.CipherSuites }),
	}
}

package peer

import (
	"crypto/tls"
	"errors"
	"io"
	"syscall"
)

// Reasons are why connections are closed before a greeting, in the words of the
// metrics.
var Reasons = [...]string{
	plainText:      "plain",       // without TLS, to a member with
	tlsText:        "tls",         // with TLS, to a member without
	badCertificate: "certificate", // that of the other side is no member's
	badHandshake:   "handshake",   // TLS failed otherwise: an old version, no certificate, or ours was not liked
	badGreeting:    "garbage",     // no greeting
	noGreeting:     "silent",      // nothing, in time
}

// reason is an index of Reasons.
type reason int

const (
	plainText reason = iota
	tlsText
	badCertificate
	badHandshake
	badGreeting
	noGreeting
)

// silences are errors of a connection that ended before anything was said.
var silences = []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE}

// reasonOf tells the reason from the error of a connection; otherwise is that
// of an error with no type of its own.
func reasonOf(err error, otherwise reason) reason {
	var (
		record tls.RecordHeaderError
		cert   *tls.CertificateVerificationError
	)
	switch {
	case errors.Is(err, errPlain), errors.As(err, &record):
		return plainText
	case errors.Is(err, errToken):
		return tlsText
	case errors.As(err, &cert):
		return badCertificate
	case isTimeout(err):
		return noGreeting
	}
	for _, end := range silences {
		if errors.Is(err, end) {
			return noGreeting
		}
	}
	return otherwise
}

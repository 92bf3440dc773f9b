package side

import (
	"bytes"
	"context"
	"fmt"
	"net"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// H2 is one HTTP/2 request written frame by frame, so that it may break gRPC's rules, which a
// gRPC client would keep. Its answer's fields are what the server said about the stream.
type H2 struct {
	Name   string
	Fields [][2]string // header fields in order
	Data   []byte      // sent with END_STREAM; nil sends none and leaves the stream open
	// Library leaves the outcome to the gRPC library: only that there is one is compared. Its
	// releases differ in how they take a unary request with no message, half of one, or two.
	Library bool
}

// GRPC gives the header fields of a proper unary gRPC request, changed by name; an empty value
// leaves the field out.
func GRPC(path string, changes ...[2]string) [][2]string {
	fields := [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", path}, {":authority", "127.0.0.1"},
		{"content-type", "application/grpc"}, {"te", "trailers"},
	}
	for _, c := range changes {
		replaced := false
		for i := range fields {
			if fields[i][0] == c[0] {
				fields[i][1], replaced = c[1], true
			}
		}
		if !replaced {
			fields = append(fields, c)
		}
	}
	return fields
}

// Frame wraps a message as gRPC does.
func Frame(compressed byte, message []byte) []byte {
	n := len(message)
	return append([]byte{compressed, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, message...)
}

// Run sends the request and reads until the stream or the connection ends.
func (h H2) Run(ctx context.Context, t *Target) Answer {
	var a Answer
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", t.Server.Client)
	if err != nil {
		a.broke("%v", err)
		return a
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)

	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range h.Fields {
		if f[1] != "" {
			enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
		}
	}
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
		a.set("end", "connection closed while sending")
		return a
	}
	framer.WriteSettings()
	framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true})
	if h.Data != nil {
		framer.WriteData(1, true, h.Data)
	}
	a.read(framer)
	if h.Library {
		if a.Fields["grpc-status"] == "" {
			a.broke("no gRPC status: %s", a)
		}
		a.Fields = nil
	}
	return a
}

// read collects header fields and trailers until the request is over.
func (a *Answer) read(framer *http2.Framer) {
	for {
		f, err := framer.ReadFrame()
		if err != nil {
			a.set("end", "connection closed")
			return
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				framer.WriteSettingsAck()
			}
		case *http2.MetaHeadersFrame:
			for _, field := range f.Fields {
				switch field.Name {
				case ":status", "content-type", "grpc-status", "grpc-message":
					a.set(field.Name, field.Value)
				}
			}
		case *http2.RSTStreamFrame:
			a.set("end", fmt.Sprintf("reset %v", f.ErrCode))
			return
		case *http2.GoAwayFrame:
			a.set("end", fmt.Sprintf("goaway %v", f.ErrCode))
			return
		}
		if end, ok := f.(interface{ StreamEnded() bool }); ok && end.StreamEnded() {
			return
		}
	}
}

func (h H2) String() string { return fmt.Sprintf("HTTP/2: %s %q %x", h.Name, h.Fields, h.Data) }

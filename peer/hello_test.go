package peer

import (
	"bytes"
	"io"
	"reflect"
	"strings"
	"testing"
)

var someone = Hello{
	Protocol: [2]int{1, 2}, ID: 0xa1, Instance: 0xa2, Cluster: 0xa3, Name: "one", Version: "0.1", Address: "10.0.0.1:2380",
	Purpose: Call, To: 0xb1,
}

// A greeting is written as its table says, and read back.
func TestGreetingBytes(t *testing.T) {
	var b bytes.Buffer
	if err := writeJSON(&b, magic, someone); err != nil {
		t.Fatal(err)
	}
	const json = `{"protocol":[1,2],"id":161,"instance":162,"cluster":163,"name":"one","version":"0.1","address":"10.0.0.1:2380","purpose":"call","to":177}`
	want := "limpet\x00\x01" + "\x00\x00\x00\x89" + json
	if b.String() != want {
		t.Errorf("hello:\n got %q\nwant %q", b.String(), want)
	}
	got, err := readHello(&b)
	if err != nil || got != someone {
		t.Errorf("read back: %+v, %v; want %+v", got, err, someone)
	}

	b.Reset()
	answer := Answer{Hello{ID: 0xb1}, &Refusal{Removed, "member a1 was removed"}}
	if err := writeJSON(&b, "", answer); err != nil {
		t.Fatal(err)
	}
	want = "\x00\x00\x00\x94" + `{"protocol":[0,0],"id":177,"instance":0,"cluster":0,"name":"","version":"","address":"","refused":{"code":"removed","text":"member a1 was removed"}}`
	if b.String() != want {
		t.Errorf("answer:\n got %q\nwant %q", b.String(), want)
	}
	back := new(Answer)
	if err := readJSON(&b, back); err != nil || back.Hello != answer.Hello || *back.Refused != *answer.Refused {
		t.Errorf("read back: %+v, %v; want %+v", back, err, answer)
	}
}

// Newer versions may say more.
func TestGreetingWithUnknownFields(t *testing.T) {
	h, err := readHello(strings.NewReader(magic + "\x00\x00\x00\x19" + `{"id":161,"mood":"merry"}`))
	if err != nil || h.ID != 161 {
		t.Errorf("got %+v, %v; want member a1", h, err)
	}
}

func TestGreetingsThatAreNone(t *testing.T) {
	for name, c := range map[string]struct{ bytes, want string }{
		"nothing":          {"", "EOF"},
		"half a magic":     {magic[:5], "unexpected EOF"},
		"another version":  {"limpet\x00\x02\x00\x00\x00\x02{}", "not a limpet"},
		"HTTP":             {"GET / HTTP/1.1\r\n\r\n", "not a limpet"},
		"TLS":              {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", "speaks TLS"},
		"no length":        {magic + "\x00\x00", "unexpected EOF"},
		"too long":         {magic + "\x00\x00\x10\x01" + strings.Repeat(" ", 4097), "claims 4097 bytes"},
		"far too long":     {magic + "\xff\xff\xff\xff", "claims 4294967295 bytes"},
		"cut":              {magic + "\x00\x00\x00\x09{}", "unexpected EOF"},
		"empty":            {magic + "\x00\x00\x00\x00", "cannot be read"},
		"not JSON":         {magic + "\x00\x00\x00\x02{{", "cannot be read"},
		"ID is a string":   {magic + "\x00\x00\x00\x0a" + `{"id":"x"}`, "cannot be read"},
		"ID is too large":  {magic + "\x00\x00\x00\x1b" + `{"id":18446744073709551616}`, "cannot be read"},
		"another protocol": {magic + "\x00\x00\x00\x10" + `{"protocol":"1"}`, "cannot be read"},
	} {
		if h, err := readHello(strings.NewReader(c.bytes)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %+v, %v; want an error with %q", name, h, err, c.want)
		}
	}
}

func TestGreetingTooLongToSay(t *testing.T) {
	var b bytes.Buffer
	if err := writeJSON(&b, magic, Hello{Name: strings.Repeat("x", maxGreeting)}); err == nil || b.Len() != 0 {
		t.Errorf("got %v and %d bytes written, want an error and none", err, b.Len())
	}
}

func TestProtocolsInCommon(t *testing.T) {
	for _, c := range []struct {
		ours, theirs [2]int
		common       bool
	}{
		{[2]int{1, 1}, [2]int{1, 1}, true},
		{[2]int{1, 2}, [2]int{2, 3}, true},
		{[2]int{2, 3}, [2]int{1, 2}, true},
		{[2]int{1, 5}, [2]int{2, 3}, true},
		{[2]int{2, 3}, [2]int{1, 5}, true},
		{[2]int{1, 1}, [2]int{2, 3}, false},
		{[2]int{2, 3}, [2]int{1, 1}, false},
		{[2]int{1, 1}, [2]int{0, 0}, false}, // of a Hello without it
	} {
		r := common(c.ours, c.theirs)
		if (r == nil) != c.common {
			t.Errorf("ours %v, theirs %v: got %v, want common %v", c.ours, c.theirs, r, c.common)
		}
		if r != nil && (r.Code != OtherProtocol || !strings.Contains(r.Text, "upgrade the older")) {
			t.Errorf("ours %v, theirs %v: refused with %s: %s", c.ours, c.theirs, r.Code, r.Text)
		}
	}
}

// meter notes the largest buffer that was offered to it: what a reader has
// allocated because of what it was told.
type meter struct {
	io.Reader
	largest int
}

func (m *meter) Read(b []byte) (int, error) {
	m.largest = max(m.largest, len(b))
	return m.Reader.Read(b)
}

func FuzzReadHello(f *testing.F) {
	var b bytes.Buffer
	_ = writeJSON(&b, magic, someone)
	f.Add(b.Bytes())
	f.Add([]byte(magic + "\xff\xff\xff\xff{}"))
	f.Add([]byte(magic + "\x00\x00\x00\x04null"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m := &meter{Reader: bytes.NewReader(data)}
		h, err := readHello(m)
		if m.largest > maxGreeting {
			t.Errorf("a buffer of %d bytes, want at most %d", m.largest, maxGreeting)
		}
		if err != nil {
			return
		}
		var b bytes.Buffer
		if writeJSON(&b, magic, h) != nil {
			return // longer than it came: escapes
		}
		if again, err := readHello(&b); err != nil || again != h {
			t.Errorf("written and read again: %+v, %v; want %+v", again, err, h)
		}
	})
}

func FuzzReadAnswer(f *testing.F) {
	var b bytes.Buffer
	_ = writeJSON(&b, "", Answer{someone, &Refusal{Copy, "it runs"}})
	f.Add(b.Bytes())
	f.Add([]byte("\x00\x00\x00\x12" + `{"refused":{"x":1}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m := &meter{Reader: bytes.NewReader(data)}
		a := new(Answer)
		err := readJSON(m, a)
		if m.largest > maxGreeting {
			t.Errorf("a buffer of %d bytes, want at most %d", m.largest, maxGreeting)
		}
		if err != nil {
			return
		}
		var b bytes.Buffer
		if writeJSON(&b, "", a) != nil {
			return // longer than it came: escapes
		}
		if again := new(Answer); readJSON(&b, again) != nil || !reflect.DeepEqual(again, a) {
			t.Errorf("written and read again: %+v; want %+v", again, a)
		}
	})
}

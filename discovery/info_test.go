package discovery

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

var full = Info{
	ID: 0x1122334455667788, Instance: 2, Cluster: 3, State: true, Index: 4, Term: 5, Name: "küche", Version: "v1.2.3",
	Protocol: [2]uint8{1, 2}, Expect: 3, Recovered: 6, Peer: "10.0.0.1:2380",
	Client: []string{"https://10.0.0.1:2379", "https://[fd00::1]:2379"},
}

func TestInfoComesBack(t *testing.T) {
	for _, in := range []Info{{}, full} {
		for _, leaving := range []bool{false, true} {
			got, left, err := decodeInfo(encodeInfo(&in, leaving))
			if err != nil || left != leaving || !reflect.DeepEqual(got, in) {
				t.Errorf("got %+v, %v, %v, want %+v, %v", got, left, err, in, leaving)
			}
		}
	}
}

func TestInfoFits(t *testing.T) {
	var urls []string
	for i := range 300 {
		urls = append(urls, fmt.Sprintf("https://10.0.0.%d:2379", i))
	}
	long := strings.Repeat("ü", 400)
	tests := []struct {
		name   string
		in     Info
		want   Info // of the strings
		client int  // URLs that are told
		size   int  // 0: not asked
	}{
		{"URLs are dropped, last first", Info{Name: "a", Peer: "h:1", Client: urls}, Info{Name: "a", Peer: "h:1"}, 19, 0},
		{"empty URLs, too", Info{Client: make([]string, 300)}, Info{}, 226, 0},
		{"all at their bounds", Info{Name: long, Version: long, Peer: strings.Repeat("p", maxPeer), Client: urls},
			Info{Name: long[:maxName], Version: long[:maxVersion], Peer: strings.Repeat("p", maxPeer)}, 0, 511},
		{"no character is cut in two", Info{Name: "x" + long}, Info{Name: "x" + long[:maxName-2]}, 0, 0},
		{"half an address is none", Info{Peer: strings.Repeat("p", maxPeer+1)}, Info{}, 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := encodeInfo(&tt.in, false)
			got, _, err := decodeInfo(b)
			if err != nil || len(b) > metaSize || tt.size != 0 && len(b) != tt.size {
				t.Fatalf("%d bytes, %v, want at most %d that decode", len(b), err, metaSize)
			}
			if len(got.Client) != tt.client || !slices.Equal(got.Client, tt.in.Client[:tt.client]) {
				t.Errorf("got %d URLs %q, want the first %d", len(got.Client), got.Client, tt.client)
			}
			if got.Client = nil; !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestInfoOfOtherVersions(t *testing.T) {
	b := encodeInfo(&full, false)
	newer := append(slices.Clone(b), "what a later version adds"...)
	newer[0] = 9
	if got, _, err := decodeInfo(newer); err != nil || !reflect.DeepEqual(got, full) {
		t.Errorf("a newer version: got %+v, %v, want %+v", got, err, full)
	}
	zero := slices.Clone(b)
	zero[0] = 0
	if _, _, err := decodeInfo(zero); !errors.Is(err, errInfo) {
		t.Errorf("version 0: got %v, want errInfo", err)
	}
	for n := range b {
		if _, _, err := decodeInfo(b[:n]); !errors.Is(err, errInfo) {
			t.Errorf("cut to %d of %d bytes: got %v, want errInfo", n, len(b), err)
		}
	}
	if _, _, err := decodeInfo(make([]byte, metaSize+1)); !errors.Is(err, errInfo) {
		t.Errorf("more bytes than memberlist carries: got %v, want errInfo", err)
	}
}

func FuzzInfo(f *testing.F) {
	f.Add(encodeInfo(&full, false))
	f.Add(encodeInfo(&Info{}, true))
	f.Add(append(encodeInfo(&full, true), 1, 2, 3))
	f.Fuzz(func(t *testing.T, b []byte) {
		in, leaving, err := decodeInfo(b)
		if err != nil {
			return
		}
		// Strings beyond their bounds are told shortened, once.
		told, _, err := decodeInfo(encodeInfo(&in, leaving))
		if err != nil {
			t.Fatalf("%+v does not decode: %v", in, err)
		}
		again, l, err := decodeInfo(encodeInfo(&told, leaving))
		if err != nil || l != leaving || !reflect.DeepEqual(again, told) {
			t.Errorf("got %+v, %v, %v, want %+v, %v", again, l, err, told, leaving)
		}
	})
}

func FuzzParseName(f *testing.F) {
	f.Add(nodeName(1, 1<<63, 7))
	f.Add("0000000000000001-000000000000000g-0")
	f.Fuzz(func(t *testing.T, name string) {
		id, instance, epoch, err := parseName(name)
		if err != nil {
			return
		}
		i2, n2, e2, err := parseName(nodeName(id, instance, epoch))
		if err != nil || i2 != id || n2 != instance || e2 != epoch {
			t.Errorf("%q: got %x %x %d, %v, want %x %x %d", name, i2, n2, e2, err, id, instance, epoch)
		}
	})
}

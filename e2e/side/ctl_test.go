package side

import "testing"

// TestPlainOutput: what says the same is the same text, and nothing that was printed is lost.
func TestPlainOutput(t *testing.T) {
	tests := []struct {
		name, a, b string
		same       bool
	}{
		{"another order of members", "7b00000000000001, started, m1\n7b00000000000002, started, m2\n", "7b00000000000002, started, m2\n7b00000000000001, started, m1\n", true},
		{"another name behind a number", "7b00000000000001, started, m1\n", "7b00000000000001, started, m2\n", false},
		{"another error behind a log line", "{\"level\":\"warn\"}\nError: one\n", "{\"level\":\"warn\"}\nError: other\n", false},
		{"another order in JSON", `{"users":["a","b"]}`, `{"users":["b","a"]}`, true},
		{"another user in JSON", `{"users":["a"]}`, `{"users":["b"]}`, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a, b := plainOutput(test.a), plainOutput(test.b)
			if (a == b) != test.same {
				t.Errorf("got %q and %q, want the same: %v", a, b, test.same)
			}
		})
	}
}

package pg0

import "testing"

func TestLSN(t *testing.T) {
	for _, s := range []string{"0/0", "0/2C079A0", "16/B374D848", "FFFFFFFF/FFFFFFFF"} {
		l, err := ParseLSN(s)
		if err != nil || l.String() != s {
			t.Errorf("ParseLSN(%q) = %v, %v", s, l, err)
		}
	}
	for _, s := range []string{"", "0", "/", "0/", "/1", "0/x", "0/123456789", "1/2/3", "-1/0"} {
		if l, err := ParseLSN(s); err == nil {
			t.Errorf("ParseLSN(%q) = %v, want an error", s, l)
		}
	}
}

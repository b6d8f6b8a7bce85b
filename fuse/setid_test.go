package fuse

import "testing"

func TestStrangersAreTold(t *testing.T) {
	const user = "Name:\tx\nGroups:\t20 30 \nCapEff:\t0000000000000000\n"
	const root = "Name:\tx\nGroups:\t20 30 \nCapEff:\t000001ffffffffff\n"
	for _, c := range []struct {
		status string
		gid    uint32
		want   bool
	}{{user, 20, false}, {user, 30, false}, {user, 3, true}, {user, 0, true}, {root, 3, false}, {"", 3, false}} {
		if got := isStranger([]byte(c.status), c.gid); got != c.want {
			t.Errorf("group %d, %q: %v, want %v", c.gid, c.status, got, c.want)
		}
	}
}

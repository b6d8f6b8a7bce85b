package posix

import (
	"testing"

	"golang.org/x/sys/unix"
)

var statfsCases = []Case{
	{Name: "statfs/figures make sense", Run: statfsFigures},
}

func statfsFigures(t *testing.T, dir string) {
	var st unix.Statfs_t
	must(t, unix.Statfs(dir, &st))
	if st.Bsize <= 0 || st.Frsize <= 0 || st.Blocks == 0 || st.Bfree > st.Blocks || st.Bavail > st.Bfree || st.Ffree > st.Files {
		t.Errorf("figures: %+v", st)
	}
	equal(t, "longest name", st.Namelen, 255)
}

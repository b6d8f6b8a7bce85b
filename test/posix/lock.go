package posix

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// LockCase is a property of locks between programs that see one folder under two paths:
// of one mount, or of two.
type LockCase struct {
	Name string
	Run  func(t *testing.T, here, there string)
}

// LockCases are all of them.
var LockCases = []LockCase{
	{"flock", lockFlock},
	{"flock is converted", lockFlockConverted},
	{"flock of duplicates", lockFlockDuplicates},
	{"open file description locks", lockOFD},
	{"of a process", lockProcess},
	{"any close ends those of the process", lockClose},
	{"is told with its bytes", lockGet},
	{"waits", lockWaits},
	{"ends with the process", lockKilled},
	{"EDEADLK", lockDeadlock},
	{"flock and bytes are apart", lockApart},
	{"many ranges", lockMany},
}

var lockCases = lockCasesOfOne()

// lockCasesOfOne runs them in one folder.
func lockCasesOfOne() []Case {
	cases := make([]Case, len(LockCases))
	for i, c := range LockCases {
		cases[i] = Case{Name: "lock/" + c.Name, Run: func(t *testing.T, dir string) { c.Run(t, dir, dir) }}
	}
	return cases
}

func lockFlock(t *testing.T, here, there string) {
	path, path2 := filepath.Join(here, "f"), filepath.Join(there, "f")
	a := open(t, path, os.O_RDWR|os.O_CREATE)
	b := open(t, path2, os.O_RDWR)
	must(t, unix.Flock(int(a.Fd()), unix.LOCK_SH))
	must(t, unix.Flock(int(b.Fd()), unix.LOCK_SH|unix.LOCK_NB))
	refuse(t, "exclusive beside shared", unix.Flock(int(b.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
	must(t, unix.Flock(int(a.Fd()), unix.LOCK_UN))
	must(t, unix.Flock(int(b.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	must(t, b.Close())
	must(t, unix.Flock(int(a.Fd()), unix.LOCK_EX|unix.LOCK_NB))
}

func lockFlockConverted(t *testing.T, here, there string) {
	path, path2 := filepath.Join(here, "f"), filepath.Join(there, "f")
	a := open(t, path, os.O_RDWR|os.O_CREATE)
	b := open(t, path2, os.O_RDWR)
	must(t, unix.Flock(int(a.Fd()), unix.LOCK_EX))
	refuse(t, "beside exclusive", unix.Flock(int(b.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
	must(t, unix.Flock(int(a.Fd()), unix.LOCK_SH))
	must(t, unix.Flock(int(b.Fd()), unix.LOCK_SH|unix.LOCK_NB))
	// Two that share and upgrade do not wait for each other.
	first := make(chan error, 1)
	go func() { first <- unix.Flock(int(a.Fd()), unix.LOCK_EX) }()
	if !Waiting(first) {
		t.Fatal("exclusive beside shared")
	}
	second := make(chan error, 1)
	go func() { second <- unix.Flock(int(b.Fd()), unix.LOCK_EX) }()
	winner, loser := a, second
	select {
	case err := <-first:
		must(t, err)
	case err := <-second:
		must(t, err)
		winner, loser = b, first
	}
	if !Waiting(loser) {
		t.Fatal("two exclusive ones")
	}
	must(t, unix.Flock(int(winner.Fd()), unix.LOCK_UN))
	must(t, Done(t, loser))
}

func lockFlockDuplicates(t *testing.T, here, there string) {
	path, path2 := filepath.Join(here, "f"), filepath.Join(there, "f")
	a := open(t, path, os.O_RDWR|os.O_CREATE)
	dup, err := unix.Dup(int(a.Fd()))
	must(t, err)
	b := open(t, path2, os.O_RDWR)
	must(t, unix.Flock(int(a.Fd()), unix.LOCK_EX))
	must(t, unix.Flock(dup, unix.LOCK_EX|unix.LOCK_NB))
	must(t, a.Close())
	refuse(t, "while a duplicate is open", unix.Flock(int(b.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
	must(t, unix.Flock(dup, unix.LOCK_UN))
	must(t, unix.Flock(int(b.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	must(t, unix.Close(dup))
}

func lockOFD(t *testing.T, here, there string) {
	path, path2 := filepath.Join(here, "f"), filepath.Join(there, "f")
	write(t, path, pattern(100, 1))
	a := open(t, path, os.O_RDWR)
	b := open(t, path2, os.O_RDWR)
	lock := func(f *os.File, kind int16, from, n int64) error {
		return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: kind, Start: from, Len: n})
	}
	must(t, lock(a, unix.F_WRLCK, 0, 10))
	refuse(t, "the same bytes", lock(b, unix.F_RDLCK, 5, 10), unix.EAGAIN, unix.EACCES)
	must(t, lock(b, unix.F_WRLCK, 10, 10))
	must(t, lock(a, unix.F_UNLCK, 0, 10))
	must(t, lock(b, unix.F_RDLCK, 0, 10))
	p := NewLocker(t)
	p.Open(1, path2)
	refuse(t, "a process beside it", p.Ask("setlk", 1, unix.F_WRLCK, 0, 0), unix.EAGAIN, unix.EACCES)
	// Another descriptor of the file says nothing; the last close of this one does.
	other := open(t, path2, os.O_RDWR)
	must(t, other.Close())
	refuse(t, "after another close", p.Ask("setlk", 1, unix.F_WRLCK, 0, 0), unix.EAGAIN, unix.EACCES)
	must(t, b.Close())
	must(t, p.Ask("setlkw", 1, unix.F_WRLCK, 0, 0))
}

func lockProcess(t *testing.T, here, there string) {
	path, path2 := filepath.Join(here, "f"), filepath.Join(there, "f")
	write(t, path, pattern(100, 1))
	p, q := NewLocker(t), NewLocker(t)
	p.Open(1, path)
	p.Open(2, path)
	q.Open(1, path2)
	must(t, p.Ask("setlk", 1, unix.F_WRLCK, 0, 50))
	must(t, p.Ask("setlk", 2, unix.F_WRLCK, 20, 50)) // it is the process that has them
	refuse(t, "another process", q.Ask("setlk", 1, unix.F_RDLCK, 69, 1), unix.EAGAIN, unix.EACCES)
	must(t, q.Ask("setlk", 1, unix.F_RDLCK, 70, 0))
	refuse(t, "to the end", p.Ask("setlk", 1, unix.F_WRLCK, 1<<40, 1), unix.EAGAIN, unix.EACCES)
	must(t, p.Ask("setlk", 1, unix.F_RDLCK, 60, 1000)) // down and up at once
	must(t, q.Ask("setlk", 1, unix.F_RDLCK, 60, 5))
	refuse(t, "up again", p.Ask("setlk", 1, unix.F_WRLCK, 0, 70), unix.EAGAIN, unix.EACCES)
	must(t, q.Ask("setlk", 1, unix.F_UNLCK, 0, 0))
	must(t, p.Ask("setlk", 1, unix.F_WRLCK, 0, 0))
	must(t, p.Ask("setlk", 1, unix.F_UNLCK, 10, 10))
	must(t, q.Ask("setlk", 1, unix.F_WRLCK, 10, 10))
	refuse(t, "before the hole", q.Ask("setlk", 1, unix.F_WRLCK, 9, 1), unix.EAGAIN, unix.EACCES)
	refuse(t, "after the hole", q.Ask("setlk", 1, unix.F_WRLCK, 20, 1), unix.EAGAIN, unix.EACCES)
}

func lockClose(t *testing.T, here, there string) {
	path, path2 := filepath.Join(here, "f"), filepath.Join(there, "f")
	write(t, path, pattern(100, 1))
	p, q := NewLocker(t), NewLocker(t)
	p.Open(1, path)
	p.Open(2, path)
	q.Open(1, path2)
	for range 20 {
		must(t, p.Ask("setlk", 1, unix.F_WRLCK, 0, 0))
		refuse(t, "held", q.Ask("setlk", 1, unix.F_WRLCK, 0, 0), unix.EAGAIN, unix.EACCES)
		p.Close(2)
		must(t, q.Ask("setlk", 1, unix.F_WRLCK, 0, 0))
		must(t, q.Ask("setlk", 1, unix.F_UNLCK, 0, 0))
		p.Open(2, path)
	}
}

func lockGet(t *testing.T, here, there string) {
	path, path2 := filepath.Join(here, "f"), filepath.Join(there, "f")
	write(t, path, pattern(100, 1))
	p, q := NewLocker(t), NewLocker(t)
	p.Open(1, path)
	q.Open(1, path2)
	none := fmt.Sprint(unix.F_UNLCK)
	equal(t, "nothing held", q.Get(1, unix.F_WRLCK, 0, 0), none)
	must(t, p.Ask("setlk", 1, unix.F_RDLCK, 10, 5))
	must(t, p.Ask("setlk", 1, unix.F_WRLCK, 30, 0))
	equal(t, "own", p.Get(1, unix.F_WRLCK, 0, 0), none)
	equal(t, "shared", q.Get(1, unix.F_WRLCK, 0, 0), fmt.Sprint(unix.F_RDLCK, 10, 5, p.PID()))
	equal(t, "beside shared", q.Get(1, unix.F_RDLCK, 0, 30), none)
	equal(t, "to the end", q.Get(1, unix.F_RDLCK, 0, 0), fmt.Sprint(unix.F_WRLCK, 30, 0, p.PID()))
}

func lockWaits(t *testing.T, here, there string) {
	path, path2 := filepath.Join(here, "f"), filepath.Join(there, "f")
	write(t, path, pattern(100, 1))
	p, q := NewLocker(t), NewLocker(t)
	p.Open(1, path)
	q.Open(1, path2)
	for _, unlock := range []func(){
		func() { must(t, p.Ask("setlk", 1, unix.F_UNLCK, 5, 1)) },
		func() { p.Close(1); p.Open(1, path) },
	} {
		must(t, p.Ask("setlk", 1, unix.F_WRLCK, 0, 10))
		waits := q.Begin("setlkw", 1, unix.F_RDLCK, 5, 1)
		if !Waiting(waits) {
			t.Fatal("it does not wait")
		}
		unlock()
		must(t, Done(t, waits))
		must(t, q.Ask("setlk", 1, unix.F_UNLCK, 0, 0))
	}
	must(t, p.Ask("flock", 1, unix.LOCK_EX, 0, 0))
	waits := q.Begin("flock", 1, unix.LOCK_SH, 0, 0)
	if !Waiting(waits) {
		t.Fatal("flock does not wait")
	}
	p.Close(1)
	must(t, Done(t, waits))
}

func lockKilled(t *testing.T, here, there string) {
	path, path2 := filepath.Join(here, "f"), filepath.Join(there, "f")
	write(t, path, pattern(100, 1))
	for _, call := range []string{"setlk", "ofd", "flock"} {
		p, q, r := NewLocker(t), NewLocker(t), NewLocker(t)
		wr := unix.F_WRLCK
		if call == "flock" {
			wr = unix.LOCK_EX
		}
		p.Open(1, path)
		q.Open(1, path2)
		r.Open(1, path2)
		must(t, p.Ask(call, 1, wr, 0, 0))
		wait := map[string]string{"setlk": "setlkw", "ofd": "ofdw", "flock": "flock"}[call]
		second := q.Begin(wait, 1, wr, 0, 0)
		if !Waiting(second) {
			t.Fatal("it does not wait")
		}
		third := r.Begin(wait, 1, wr, 0, 0)
		if !Waiting(third) {
			t.Fatal("it does not wait")
		}
		q.Kill() // in the middle of its wait
		p.Kill()
		must(t, Done(t, third))
		r.End()
	}
}

func lockDeadlock(t *testing.T, here, there string) {
	write(t, filepath.Join(here, "a"), nil)
	write(t, filepath.Join(there, "b"), nil)
	p, q := NewLocker(t), NewLocker(t)
	for l, dir := range map[*Locker]string{p: here, q: there} {
		l.Open(1, filepath.Join(dir, "a"))
		l.Open(2, filepath.Join(dir, "b"))
	}
	must(t, p.Ask("setlk", 1, unix.F_WRLCK, 0, 1))
	must(t, q.Ask("setlk", 2, unix.F_WRLCK, 0, 1))
	waits := p.Begin("setlkw", 2, unix.F_WRLCK, 0, 1)
	if !Waiting(waits) {
		t.Fatal("it does not wait")
	}
	refuse(t, "each waits for the other", q.Ask("setlkw", 1, unix.F_WRLCK, 0, 1), unix.EDEADLK)
	must(t, q.Ask("setlk", 2, unix.F_UNLCK, 0, 1))
	must(t, Done(t, waits))
}

func lockApart(t *testing.T, here, there string) {
	path, path2 := filepath.Join(here, "f"), filepath.Join(there, "f")
	write(t, path, pattern(100, 1))
	p, q := NewLocker(t), NewLocker(t)
	p.Open(1, path)
	q.Open(1, path2)
	must(t, p.Ask("flock", 1, unix.LOCK_EX|unix.LOCK_NB, 0, 0))
	must(t, q.Ask("setlk", 1, unix.F_WRLCK, 0, 0))
	q.Close(1)
	q.Open(1, path2)
	refuse(t, "flock", q.Ask("flock", 1, unix.LOCK_SH|unix.LOCK_NB, 0, 0), unix.EWOULDBLOCK)
}

func lockMany(t *testing.T, here, there string) {
	path, path2 := filepath.Join(here, "f"), filepath.Join(there, "f")
	write(t, path, pattern(100, 1))
	p, q := NewLocker(t), NewLocker(t)
	p.Open(1, path)
	q.Open(1, path2)
	const n = 200
	for i := range int64(n) {
		must(t, p.Ask("setlk", 1, unix.F_WRLCK, 10*i, 5))
	}
	for i := range int64(n) {
		refuse(t, "locked", q.Ask("setlk", 1, unix.F_RDLCK, 10*i+4, 1), unix.EAGAIN, unix.EACCES)
		must(t, q.Ask("setlk", 1, unix.F_RDLCK, 10*i+5, 5))
	}
	must(t, p.Ask("setlk", 1, unix.F_UNLCK, 0, 0))
	must(t, q.Ask("setlk", 1, unix.F_WRLCK, 0, 0))
}

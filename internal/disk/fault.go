package disk

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Op is a kind of operation that a Rule can make fail.
type Op uint8

// Operations; OpAny is each of them.
const (
	OpAny Op = iota
	OpOpen
	OpRead
	OpWrite
	OpSync
	OpTruncate
	OpAllocate
	OpRename
	OpRemove
	OpMkdir
	OpReadDir
	OpStat
	OpSyncDir
	OpLock
	OpUsage
)

var opNames = []string{
	"any", "open", "read", "write", "sync", "truncate", "allocate", "rename", "remove", "mkdir",
	"readdir", "stat", "syncdir", "lock", "usage",
}

func (o Op) String() string {
	if int(o) < len(opNames) {
		return opNames[o]
	}
	return "unknown"
}

// Rule is a fault: which operations on which names go wrong, and how.
type Rule struct {
	Op    Op
	Path  string        // as path.Match, against as many last parts of the name as it has itself
	After int           // so many matching operations go well first
	Times int           // so many then go wrong; 0 is all of them
	Err   error         // nil: it goes well
	Delay time.Duration // it takes so much longer
	Do    func()        // called before the operation: to crash in the middle of things
}

var errnos = map[string]syscall.Errno{
	"EIO": syscall.EIO, "ENOSPC": syscall.ENOSPC, "EACCES": syscall.EACCES, "EROFS": syscall.EROFS,
	"EMFILE": syscall.EMFILE, "ENOENT": syscall.ENOENT, "EDQUOT": syscall.EDQUOT,
}

// ParseRule reads a rule as tests write it: an operation, a pattern, then any of
// err=NAME, after=N, times=N and delay=DURATION. The error is EIO when neither err
// nor delay is given.
//
//	sync chunks/*/* after=3 times=1
//	write *.log err=ENOSPC
//	read * delay=10ms
func ParseRule(text string) (Rule, error) {
	words := strings.Fields(text)
	if len(words) < 2 {
		return Rule{}, fmt.Errorf("rule %q: want an operation and a pattern", text)
	}
	op := slices.Index(opNames, words[0])
	if op < 0 {
		return Rule{}, fmt.Errorf("rule %q: no operation %q", text, words[0])
	}
	r := Rule{Op: Op(op), Path: words[1]}
	if _, err := path.Match(r.Path, ""); err != nil {
		return Rule{}, fmt.Errorf("rule %q: %w", text, err)
	}
	for _, w := range words[2:] {
		key, value, _ := strings.Cut(w, "=")
		var err error
		switch key {
		case "err":
			e, ok := errnos[value]
			if !ok {
				return Rule{}, fmt.Errorf("rule %q: no error %q", text, value)
			}
			r.Err = e
		case "after":
			r.After, err = strconv.Atoi(value)
		case "times":
			r.Times, err = strconv.Atoi(value)
		case "delay":
			r.Delay, err = time.ParseDuration(value)
		default:
			return Rule{}, fmt.Errorf("rule %q: no word %q", text, w)
		}
		if err != nil {
			return Rule{}, fmt.Errorf("rule %q: %w", text, err)
		}
	}
	if r.Err == nil && r.Delay == 0 {
		r.Err = syscall.EIO
	}
	return r, nil
}

// Fail adds a rule. When several match, the first decides. The function takes the
// rule away again.
func (m *Mem) Fail(r Rule) (remove func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	rule := &r
	m.rules = append(m.rules, rule)
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.rules = slices.DeleteFunc(m.rules, func(o *Rule) bool { return o == rule })
	}
}

// fault finds out whether an operation shall fail. It waits, if it must, without
// the lock.
func (m *Mem) fault(op Op, name string) error {
	m.mu.Lock()
	var hit *Rule
	for _, r := range m.rules {
		if r.Op != OpAny && r.Op != op || !matches(r.Path, name) {
			continue
		}
		if r.After > 0 {
			r.After--
			continue
		}
		if r.Times < 0 {
			continue // used up
		}
		if r.Times > 0 {
			if r.Times--; r.Times == 0 {
				r.Times = -1
			}
		}
		hit = r
		break
	}
	if hit == nil {
		m.mu.Unlock()
		return nil
	}
	err, delay, do := hit.Err, hit.Delay, hit.Do
	m.mu.Unlock()
	if do != nil {
		do()
	}
	if delay > 0 {
		time.Sleep(delay)
	}
	return err
}

func matches(pattern, name string) bool {
	parts := split(name)
	if n := strings.Count(pattern, "/") + 1; n < len(parts) {
		parts = parts[len(parts)-n:]
	}
	ok, err := path.Match(pattern, strings.Join(parts, "/"))
	return err == nil && ok
}

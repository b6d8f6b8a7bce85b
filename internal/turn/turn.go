// Package turn has a mutex for what is held over waiting.
package turn

import "sync"

// Mutex is a mutex for what is held over waiting, such as over proposals or writes to a disk.
// Who waits for it waits as for a channel, so that time goes on meanwhile where it is virtual: in
// a bubble of testing/synctest it stands still as long as anybody waits for a sync.Mutex. The
// zero value is unlocked.
type Mutex struct {
	once sync.Once
	c    chan struct{}
}

// Lock waits until nobody has it.
func (m *Mutex) Lock() {
	m.once.Do(func() { m.c = make(chan struct{}, 1) })
	m.c <- struct{}{}
}

// Unlock gives it to the next.
func (m *Mutex) Unlock() { <-m.c }

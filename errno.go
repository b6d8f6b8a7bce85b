package dfs

import "syscall"

// Errno is a verdict: the answer of an operation that was carried out and
// refused, with Linux's numbers on every platform. It is never retried. What
// went wrong on the way to a verdict is a plain error.
type Errno uint32

// The verdicts that dfs gives.
const (
	OK           Errno = 0
	EPERM        Errno = 1
	ENOENT       Errno = 2
	EINTR        Errno = 4
	EIO          Errno = 5
	ENXIO        Errno = 6
	E2BIG        Errno = 7
	EBADF        Errno = 9
	EAGAIN       Errno = 11
	ENOMEM       Errno = 12
	EACCES       Errno = 13
	EBUSY        Errno = 16
	EEXIST       Errno = 17
	EXDEV        Errno = 18
	ENODEV       Errno = 19
	ENOTDIR      Errno = 20
	EISDIR       Errno = 21
	EINVAL       Errno = 22
	EFBIG        Errno = 27
	ENOSPC       Errno = 28
	EROFS        Errno = 30
	EMLINK       Errno = 31
	ERANGE       Errno = 34
	EDEADLK      Errno = 35
	ENAMETOOLONG Errno = 36
	ENOLCK       Errno = 37
	ENOSYS       Errno = 38
	ENOTEMPTY    Errno = 39
	ELOOP        Errno = 40
	ENODATA      Errno = 61
	EOVERFLOW    Errno = 75
	EOPNOTSUPP   Errno = 95
	ETIMEDOUT    Errno = 110
	ESTALE       Errno = 116
	EDQUOT       Errno = 122
)

// Error makes a non-zero Errno an error.
func (e Errno) Error() string { return syscall.Errno(e).Error() }

// Err is nil for OK, else e.
func (e Errno) Err() error {
	if e == OK {
		return nil
	}
	return e
}

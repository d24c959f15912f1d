// Package threads bounds how many threads of the system wait for the disk.
//
// A goroutine that waits for the network costs no thread; one in a system call that
// waits for the disk does. When the disk stands still, as disks of rented machines do
// for seconds, a thousand sessions that write and read would take a thousand threads,
// and the runtime ends the process when the system gives no more: service managers
// allow 512 (LimitNPROC). With this bound, sessions wait for each other instead.
package threads

// Most is how many wait for the disk at once.
const Most = 256

var places = make(chan struct{}, Most)

// Enter takes a place, and waits for one. Between Enter and Leave a goroutine makes
// system calls and waits for nobody else.
func Enter() { places <- struct{}{} }

// Leave gives the place back.
func Leave() { <-places }

// TryEnter takes a place if there is one.
func TryEnter() bool {
	select {
	case places <- struct{}{}:
		return true
	default:
		return false
	}
}

package proxy

// A spin decides whether a loop looks again and again for the next message
// before it sleeps. To be woken takes longer than a short query. It pays while
// a single session has the loop to itself: with more of them the next message
// is there anyway, and others need the processor.
type spin struct {
	last   *looped
	streak int // events in succession that were of that session
	score  int // of the last tries
	rest   int // turns to go without
}

const (
	// spinLooks is how often to look: about 0.1 ms, which a short query takes.
	spinLooks = 300
	// spinStreak tells a single busy session.
	spinStreak = 16
	// bestScore is how many lucky tries are remembered.
	bestScore = 8
	// spinRest is how many turns go by after unlucky ones.
	spinRest = 1024
)

// seen is called for every event.
func (s *spin) seen(x *looped) {
	if x == s.last {
		s.streak++
		return
	}
	s.last, s.streak = x, 0
}

func (s *spin) pays() bool {
	if s.rest > 0 {
		s.rest--
		return false
	}
	return s.streak >= spinStreak
}

func (s *spin) hit() { s.score = min(s.score+1, bestScore) }

// missed counts twice: half of the tries must be lucky, and some more.
func (s *spin) missed() {
	if s.score -= 2; s.score < 0 {
		s.score, s.rest = 0, spinRest
	}
}

package worker

import (
	"github.com/lintelrun/lintel/runner/exchange"
	"github.com/lintelrun/lintel/runner/frame"
)

// parking is a queue of messages that holds those it is to keep for long on disk
// past its budget.
type parking struct {
	spill    spiller
	messages []parkedMessage
}

type parkedMessage struct {
	message exchange.Message
	frame   exchange.Stored
	prepaid bool // its credit went back when it was parked
}

func (p *parking) empty() bool { return len(p.messages) == 0 }

// push parks m, whose credit goes back now.
func (p *parking) push(m exchange.Message) error {
	e := parkedMessage{message: m, prepaid: true}
	if m.Kind == exchange.Data {
		s, err := p.spill.store(m.Frame)
		if err != nil {
			return err
		}
		e.frame, e.message.Frame = s, frame.Frame{}
	}
	p.messages = append(p.messages, e)
	return nil
}

// queue puts m behind what is parked. Its credit bounds what lies here so.
func (p *parking) queue(m exchange.Message) {
	p.messages = append(p.messages, parkedMessage{message: m})
}

func (p *parking) pop() (m exchange.Message, prepaid bool, err error) {
	e := p.messages[0]
	if e.frame != nil {
		if e.message.Frame, err = e.frame.Load(); err != nil {
			return exchange.Message{}, false, err
		}
	}
	p.messages[0] = parkedMessage{}
	p.messages = p.messages[1:]
	return e.message, e.prepaid, nil
}

func (p *parking) close() {
	for _, e := range p.messages {
		if e.frame != nil {
			e.frame.Drop()
		}
	}
	p.messages = nil
	p.spill.close()
}

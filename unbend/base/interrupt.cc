#include "unbend/base/interrupt.h"

#include <csignal>

namespace unbend {
namespace {

// The one global of the library: a signal handler can reach nothing else.
volatile std::sig_atomic_t signal_seen = 0;

void handle(int number) {
  signal_seen = 1;
  if (number == SIGINT) std::signal(SIGINT, SIG_DFL);  // the next one ends the process
}

}  // namespace

void catch_interrupts() {
  signal_seen = 0;
  struct sigaction action {};
  action.sa_handler = handle;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

bool interrupted() { return signal_seen != 0; }

}  // namespace unbend

// Ctrl-C as a flag that long work asks for between steps.
#pragma once

namespace unbend {

/// From now on SIGINT and SIGTERM set a flag; a second SIGINT ends the process at once.
void catch_interrupts();

/// Whether a signal came since catch_interrupts().
bool interrupted();

}  // namespace unbend

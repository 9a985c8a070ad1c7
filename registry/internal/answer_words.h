// What a server says in an answer that is an error.
#pragma once

#include <string>
#include <string_view>

namespace lamina::registry::internal {

// One line for a message, printable: the codes and messages of a registry's JSON (distribution-spec, "Error Codes"),
// else the title or the first words of a page or text, as proxies send them. Empty when it says nothing.
std::string words_of_answer(std::string_view content_type, std::string_view body);

}  // namespace lamina::registry::internal

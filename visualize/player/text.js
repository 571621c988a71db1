// Tokens as text. A vocabulary holds bytes, because a character may be spread over several tokens.

function entryBytes(entry) {
  if (typeof entry === "string") return new TextEncoder().encode(entry);
  return Uint8Array.from(entry.hex.match(/../g) || [], (pair) => parseInt(pair, 16));
}

// Text of every cell, [{text, partial}]. Neighbouring tokens are joined until their bytes are whole characters; the
// first cell of such a group carries the text. A part whose other half is still masked is marked as partial.
// ids: token id per position, null = masked; isEnd(id) tells end tokens, which have no text.
function cellTexts(ids, vocabulary, isEnd) {
  const out = ids.map(() => ({ text: "", partial: false }));
  let group = [];
  let bytes = [];
  const close = (waiting) => {
    if (!group.length) return;
    const tail = waiting ? incompleteTail(bytes) : 0;
    out[group[0]].text = new TextDecoder().decode(Uint8Array.from(tail ? bytes.slice(0, -tail) : bytes));
    if (tail) out[group[group.length - 1]].partial = true;
    group = [];
    bytes = [];
  };
  ids.forEach((id, position) => {
    if (id === null || isEnd(id)) return close(id === null);
    let piece = [...(vocabulary.get(id) || [])];
    if (!group.length && position > 0 && ids[position - 1] === null) {
      const whole = piece.findIndex((byte) => (byte & 0xc0) !== 0x80);
      if (whole !== 0 && piece.length) out[position].partial = true;
      piece = whole < 0 ? [] : piece.slice(whole);
    }
    if (group.length && piece.length && (piece[0] & 0xc0) !== 0x80) close(false); // the other half never came
    group.push(position);
    bytes.push(...piece);
    if (!incompleteTail(bytes)) close(false);
  });
  close(false);
  return out;
}

// How many bytes at the end begin a UTF-8 character that is not complete.
function incompleteTail(bytes) {
  for (let back = 1; back <= Math.min(3, bytes.length); back += 1) {
    const byte = bytes[bytes.length - back];
    if ((byte & 0xc0) === 0x80) continue;
    const needed = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
    return needed > back ? back : 0;
  }
  return 0;
}

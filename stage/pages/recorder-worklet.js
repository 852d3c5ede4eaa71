// Collects the microphone's sound as 16-bit mono samples. A ring of the last moments goes before a recording.
const PIECE = 0.2; // seconds
const LEVEL = 0.05; // seconds between two levels

class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.ring = []; // blocks
    this.ringLength = 0;
    this.piece = []; // blocks of the piece that is collected
    this.pieceLength = 0;
    this.recording = false;
    this.left = Infinity; // samples until the end
    this.level = 0;
    this.levelLength = 0;
    this.zeros = 0; // samples that are exactly zero, up to now
    this.port.onmessage = ({ data }) => this.command(data);
  }

  command({ name, before, after, most }) {
    if (name === "start") {
      this.before = before;
      this.piece = [...this.ring];
      this.pieceLength = this.ringLength;
      this.recording = true;
      this.left = Math.round((most + after) * sampleRate);
    } else if (name === "stop" && this.recording) {
      this.left = Math.min(this.left, Math.round(after * sampleRate));
    } else if (name === "cancel") {
      this.recording = false;
    } else if (name === "forget") {
      this.ring = [];
      this.ringLength = this.zeros = 0;
    }
  }

  process([channels]) {
    if (!channels.length) return true;
    const block = mono(channels);
    const peak = peakOf(block);
    this.zeros = peak ? trailingZeros(block) : this.zeros + block.length;
    this.level = Math.max(this.level, peak);
    this.levelLength += block.length;
    if (this.levelLength >= LEVEL * sampleRate) {
      this.port.postMessage({ level: this.level / 32768, silence: this.zeros / sampleRate });
      this.level = this.levelLength = 0;
    }
    this.remember(block);
    if (this.recording) this.collect(block);
    return true;
  }

  remember(block) {
    this.ring.push(block);
    this.ringLength += block.length;
    while (this.ringLength - this.ring[0].length >= 0.3 * sampleRate) {
      this.ringLength -= this.ring.shift().length;
    }
  }

  collect(block) {
    const part = block.length > this.left ? block.slice(0, this.left) : block;
    this.piece.push(part);
    this.pieceLength += part.length;
    this.left -= part.length;
    const last = this.left <= 0;
    if (last || this.pieceLength >= PIECE * sampleRate) {
      const samples = new Int16Array(this.pieceLength);
      let at = 0;
      for (const one of this.piece) {
        samples.set(one, at);
        at += one.length;
      }
      this.port.postMessage({ samples, last }, [samples.buffer]);
      this.piece = [];
      this.pieceLength = 0;
      this.recording = !last;
    }
  }
}

function mono(channels) {
  const [left, right = left] = channels; // the node has two at most
  const block = new Int16Array(left.length);
  for (let i = 0; i < block.length; i++) {
    block[i] = Math.max(-32768, Math.min(32767, Math.round((left[i] + right[i]) * 16384)));
  }
  return block;
}

function peakOf(block) {
  let peak = 0;
  for (let i = 0; i < block.length; i++) peak = Math.max(peak, Math.abs(block[i]));
  return peak;
}

function trailingZeros(block) {
  let count = 0;
  while (!block[block.length - 1 - count]) count++;
  return count;
}

registerProcessor("recorder", Recorder);

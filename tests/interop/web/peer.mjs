// What all clients have: commands come as lines of JSON on stdin, what happens goes as lines of JSON to stdout.
import readline from 'node:readline';

export const say = (what, more) => console.log(JSON.stringify({what, ...more}));

export function obey(commands) {
  readline.createInterface({input: process.stdin}).on('line', async (line) => {
    const command = JSON.parse(line);
    try {
      await commands[command.do](command);
    } catch (error) {
      say('error', {text: String(error)});
    }
  });
}

// The declarations that the snippets of README.md need: objects of earlier snippets, and of React
// Native no more than what is called.

declare const presence: import("@presenced/client/browser").BrowserPresence;
declare const watch: import("@presenced/client").UsersWatch;
declare const token: string;

declare module "react-native" {
  export const AppState: {
    addEventListener(event: "change", listener: (state: string) => void): void;
  };
}
